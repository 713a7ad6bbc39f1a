"""Nodes of several control processes, and on machines of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Settle = Callable[[Callable[[], bool]], None]


def test_another_control_process_takes_over(
    make_control: Callable[..., Any], empty_url: Callable[[str], str], machine: Callable[..., Any]
) -> None:
    """The node finds the one that leads, and follows it under its higher epoch."""
    url = empty_url("postgresql")
    first, second = make_control(url), make_control(url)
    first.start()
    first.until(first.ready)
    second.start()
    second.until(second.ready)
    one = machine("a", ",".join(f"http://127.0.0.1:{c.port}" for c in (second, first)))
    one.run_engine()
    one.start()
    _register(first, "before")
    first.until(lambda: one.targets() == {"before"} and one.gate.may_serve())
    lead = one.agent._standing.lead
    assert second.http.get("/nodes").status_code == 503
    first.kill()

    _register(second, "after")
    second.until(lambda: one.targets() == {"before", "after"})
    second.until(lambda: one.agent._standing.lead == lead + 1)

    (view,) = second.http.get("/nodes").json()["nodes"]
    assert (view["id"], view["num_workers"]) == ("a", 1)


def _register(control: Any, name: str) -> str:
    target = {"id": name, "phrases": ["x"], "description": name}
    answer = control.http.post("/targets", json=target)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job"]["id"])


class Network:
    """Machines that are network namespaces, each on a cable of its own to this one."""

    def __init__(self, names: str) -> None:
        """Lay the cables.

        Raises:
            OSError, subprocess.CalledProcessError: that is not allowed here.
        """
        self._mark = f"lg{os.getpid() % 10_000}"
        self.host = "10.213.77.1"
        self._made: list[list[str]] = []
        try:
            self._ip("link", "add", self._bridge, "type", "bridge")
            self._made.append(["link", "del", self._bridge])
            self._ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
            self._ip("link", "set", self._bridge, "up")
            for number, name in enumerate(names):
                self._lay(name, f"10.213.77.{number + 11}/24")
        except BaseException:
            self.close()
            raise

    @property
    def _bridge(self) -> str:
        return f"{self._mark}br"

    def switch(self, name: str, state: str) -> None:
        """Set a machine's cable "down" or "up"; what was sent meanwhile is lost."""
        self._ip("link", "set", f"{self._mark}{name}", state)

    def within(self, name: str, work: Callable[[], None]) -> None:
        """Do something on a machine; threads that it starts are there, too."""
        faults: list[BaseException] = []

        def enter() -> None:
            place = os.open(f"/var/run/netns/{self._mark}{name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(place, 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                work()
            except BaseException as fault:
                faults.append(fault)
            finally:
                os.close(place)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if faults:
            raise faults[0]

    def close(self) -> None:
        """Take all away."""
        for command in reversed(self._made):
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def _lay(self, name: str, address: str) -> None:
        space, near, far = f"{self._mark}{name}", f"{self._mark}{name}", f"{self._mark}{name}f"
        self._ip("netns", "add", space)
        self._made.append(["netns", "del", space])
        self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        self._made.append(["link", "del", near])
        self._ip("link", "set", near, "master", self._bridge, "up")
        self._ip("-n", space, "addr", "add", address, "dev", far)
        self._ip("-n", space, "link", "set", far, "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines; skips where none can be made."""
    try:
        made = Network("abc")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here (root and iproute2 are needed)")
    yield made
    made.close()


def test_of_three_machines_one_is_cut_off_and_healed(
    network: Network,
    make_control: Callable[..., Any],
    machine: Callable[..., Any],
    settle: Settle,
) -> None:
    """When a change is said to be in force, nobody is served under what was: two machines apply it,
    and the third, which cannot know of it, refuses. Healed, it takes it up and serves again."""
    control = make_control(host=network.host)
    control.start()
    control.until(control.ready)
    url, nodes = f"http://{network.host}:{control.port}", dict[str, Any]()
    for name in "abc":
        one = nodes[name] = machine(name, url, node_max_lag_seconds=1)
        one.run_engine()
        network.within(name, one.start)
    job = _register(control, "first")
    settle(lambda: all(one.targets() == {"first"} for one in nodes.values()))
    settle(lambda: all(one.gate.may_serve() for one in nodes.values()))
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    network.switch("c", "down")
    both = {"first", "second"}

    def states() -> dict[str, str]:
        return {n["id"]: n["state"] for n in control.http.get("/nodes").json()["nodes"]}

    job = _register(control, "second")
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    # Of the two one may be told too late, where the machine stands still, and refuses meanwhile.
    assert not [n for n in "abc" if nodes[n].gate.may_serve() and nodes[n].targets() != both]
    assert not nodes["c"].gate.may_serve()
    assert nodes["c"].targets() == {"first"}
    settle(lambda: all(nodes[n].targets() == both and nodes[n].gate.may_serve() for n in "ab"))
    control.until(lambda: control.http.get("/generation").json()["in_force"])
    control.until(lambda: states() == {"a": "current", "b": "current", "c": "silent"})
    network.switch("c", "up")

    settle(lambda: nodes["c"].targets() == both and nodes["c"].gate.may_serve())
