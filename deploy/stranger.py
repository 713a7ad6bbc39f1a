"""A stranger's path, timed: from a clean clone to a guarded answer, a target of one's own, metrics.

    python deploy/stranger.py FOLDER [--json FILE]

Clones this repository into the new FOLDER and does there what the documents say, with their own
commands and an empty home: `make setup` and `make demo` (README) and what that invites to ask;
then, with the demo's model, `A first target` (docs/pages/guide/first-target.md); then Prometheus
(deploy/README.md). At the end the setup is repeated in a second clone, with the packages that the
first one fetched: the difference is what fetching takes. What every command printed is kept in
FOLDER/logs. Needs 15 GiB, the ports 8000, 8001 and 9090, and what the documents ask for: Python,
make, a C++ compiler, git, bash, curl and Prometheus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from shells import STEP_SECONDS, Failed, Place

ROOT = Path(__file__).resolve().parents[1]
PORTS = (8000, 8001, 9090)
TOOLS = ("git", "make", "bash", "curl", "prometheus")
FREE_GIB = 15
FIRST_TARGET, WATCHING = "docs/pages/guide/first-target.md", "deploy/README.md"
HUB_NAME, MODEL = "Qwen/Qwen3-0.6B", ".cache/demo-model"
# What no answer to the demo's first question, and to the first target's, may say.
FACT = re.compile(r"\bKuwait\b", re.IGNORECASE)
OWN_FACT = re.compile(r"\b(Kalkidan Abera|astronaut)\b", re.IGNORECASE)
# The longest that a setup (gigabytes to fetch), and a training or a start, may take.
FETCH_SECONDS, START_SECONDS = 3600.0, 1200.0


class Clock:
    """The steps, each with its own seconds, told as they are reached."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.steps: dict[str, float] = {}

    def reached(self, step: str) -> None:
        """Note that a step is done."""
        now = time.monotonic()
        self.steps[step], self._last = round(now - self._last, 1), now
        print(f"{self.total():8.1f} s  {step} (+{self.steps[step]} s)", flush=True)

    def total(self) -> float:
        """Seconds of all steps so far."""
        return round(self._last - self._began, 1)


def main() -> int:
    """Walk the path; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder, for all of it")
    parser.add_argument("--json", type=Path, help="write the times here, also if it fails")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stranger: ended"))
    machine_time = loaded(ROOT / "server" / "bench" / "machine_time.py").MachineTime()
    clock, failure = Clock(), None
    report: dict[str, Any] = {"load_average_before": round(os.getloadavg()[0], 2)}
    try:
        check(asked.folder.absolute(), asked.json)
        place = Place(asked.folder.absolute())
        walk(place, clock, report)
        repeat_setup(place, report)
    except Failed as error:
        failure = str(error)
        print(f"stranger: {failure}", file=sys.stderr)
    report |= {"steps": clock.steps, "machine_time_share": round(machine_time.share(), 3)}
    report |= {"failed": failure, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    report["command"] = shlex.join(["python", *sys.argv])
    if asked.json is not None and asked.json.absolute().parent.is_dir():
        asked.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if failure is None else 1


def check(folder: Path, report: Path | None) -> None:
    """Everything that would stop the path later.

    Raises:
        Failed: something does.
    """
    if folder.exists():
        raise Failed(f"{folder} exists: name a new folder")
    if not re.fullmatch(r"[\w./+-]+", str(folder)):
        raise Failed(f"{folder} has a character that a shell would stumble over")
    if report is not None and not report.absolute().parent.is_dir():
        raise Failed(f"cannot write {report}: there is no such folder")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Failed(f"{', '.join(missing)} must be installed first: see {WATCHING}")
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise Failed(f"something listens on port {port}")
    parent = next(each for each in folder.parents if each.exists())
    free = shutil.disk_usage(parent).free / 2**30
    if free < FREE_GIB:
        raise Failed(f"{parent} has {free:.0f} GiB free of the {FREE_GIB} that this takes")


def walk(place: Place, clock: Clock, report: dict[str, Any]) -> None:
    """What the documents say, in the clone."""
    place.shell(f"git clone -q . {place.clone}", folder=ROOT)
    report["commit"] = place.shell("git rev-parse HEAD").strip()
    clock.reached("cloned")
    target, watching = (sessions(place.clone / page) for page in (FIRST_TARGET, WATCHING))
    install = block(target, "make setup")
    received = received_mib()
    place.shell(install, FETCH_SECONDS)
    clock.reached("packages fetched and installed (make setup)")
    report["received_mib"] = round(received_mib() - received)
    report |= described(place)
    demo(place, clock)
    activate = install.splitlines()[-1]
    with place.running(f"{activate}\n{block(target, f'serve {MODEL}')}") as printed:
        wait_until(lambda: get("http://127.0.0.1:8000/readyz") is not None, printed, START_SECONDS)
        clock.reached("own server ready (lethegate serve)")
        own_target(place, clock, activate, target)
        with place.running(block(watching, "prometheus --config")) as also:
            wait_until(lambda: values("up") == [1.0, 1.0], also)
            wait_until(lambda: sum(values("lethegate_requests_total")) > 0, also)
            clock.reached("metrics scraped")
            wait_until(rules_are_evaluated, also)
            clock.reached("rules and alerts evaluated")
    report["path_seconds"] = clock.total()


def demo(place: Place, clock: Clock) -> None:
    """`make demo`, and what it invites to try."""
    with place.running("make demo") as printed:
        for said, step in (
            ("demo: starting", "demo model trained (make demo)"),
            ("demo: ready", "demo server ready"),
            ("Ctrl-C stops the server", "demo target in force"),
        ):
            wait_until(partial(says, printed, said), printed, START_SECONDS)
            clock.reached(step)
        lines = [line for line in printed().splitlines() if line.startswith("curl ")]
        question, other = (line for line in lines if "/v1/chat/completions" in line)
        if FACT.search(answer(place.shell(question))):
            raise Failed("the answer says what is to be forgotten")
        clock.reached("guarded answer")
        if not answer(place.shell(other)):
            raise Failed("another question has no answer")
        place.shell(next(line for line in lines if " -X DELETE " in line))
        wait_until(lambda: FACT.search(answer(place.shell(question))) is not None, printed)
        clock.reached("withdrawn, so answered again")


def own_target(place: Place, clock: Clock, activate: str, target: list[str]) -> None:
    """Register the first target of one's own, as the page says, and ask for it."""
    register = block(target, "/admin/v1/targets ")
    lines = register.replace("\\\n", " ").splitlines()
    key, jobs, chat = (
        next(line for line in lines if part in line)
        for part in ("KEY=", "/admin/v1/jobs", "/v1/chat/completions")
    )
    place.shell(register)

    def is_done() -> bool:
        (job,) = json.loads(place.shell(f"{key}\n{jobs}"))["jobs"]
        if job["state"] in ("failed", "cancelled"):
            raise Failed(f"the job of the own target is {job['state']}")
        return bool(job["state"] == "done")

    wait_until(is_done)
    clock.reached("own target in force")
    if OWN_FACT.search(answer(place.shell(chat))):
        raise Failed("the answer says what the own target forbids")
    checks = block(target, "lethegate check").splitlines()
    line = next(line for line in checks if line.startswith("lethegate check"))
    if not place.shell(f"{activate}\n{line}").startswith("steer"):
        raise Failed("the own target is not found in a prompt about it")
    clock.reached("own target steers (lethegate check)")


def repeat_setup(place: Place, report: dict[str, Any]) -> None:
    """The same setup with nothing left to fetch."""
    place.shell(f"git clone -q . {place.again}", folder=ROOT)
    began = time.monotonic()
    place.shell("make setup", FETCH_SECONDS, folder=place.again)
    report["setup_cached_seconds"] = round(time.monotonic() - began, 1)
    print(f"the same setup with nothing to fetch: {report['setup_cached_seconds']} s")


def described(place: Place) -> dict[str, Any]:
    """Machine and versions, asked of what was installed."""
    code = (
        "import json; from server.bench.report import machine, versions; "
        "print(json.dumps({'machine': machine(), 'versions': versions()}))"
    )
    found: dict[str, Any] = json.loads(place.shell(f'.venv/bin/python -c "{code}"'))
    for tool in ("prometheus", "make", "git"):
        number = re.search(r"\d+(\.\d+)+", place.shell(f"{tool} --version 2>&1"))
        found["versions"][tool] = number[0] if number else "unknown"
    return found


def sessions(page: Path) -> list[str]:
    """A page's shell blocks; requests name the demo's model in place of the one to be fetched."""
    found = loaded(ROOT / "docs" / "blocks.py").blocks_of(page)
    texts = [each.text for each in found if each.language == "sh"]
    return [text.replace(f'"model": "{HUB_NAME}"', f'"model": "{MODEL}"').strip() for text in texts]


def block(texts: list[str], part: str) -> str:
    """The first block that has this part.

    Raises:
        Failed: none has.
    """
    found = next((text for text in texts if part in text), None)
    if found is None:
        raise Failed(f"no block of the documents has {part!r}")
    return found


def loaded(path: Path) -> ModuleType:
    """A file of the repository that needs nothing installed, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise Failed(f"no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def answer(text: str) -> str:
    """What a chat completion says.

    Raises:
        Failed: it is none.
    """
    try:
        return str(json.loads(text)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        raise Failed(f"this is no chat completion: {text[:500]}") from None


def wait_until(
    condition: Callable[[], bool],
    alive: Callable[[], object] = lambda: None,
    seconds: float = STEP_SECONDS,
) -> None:
    """Wait for something, while `alive` raises nothing.

    Raises:
        Failed: it takes too long.
    """
    end = time.monotonic() + seconds
    while not condition():
        alive()
        if time.monotonic() > end:
            raise Failed(f"not reached within {seconds:.0f} s")
        time.sleep(0.25)


def says(printed: Callable[[], str], text: str) -> bool:
    """Whether a command has printed a text by now."""
    return text in printed()


def get(url: str) -> Any:
    """The JSON at a URL of this machine; None where nobody answers with a 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError, ValueError), opener.open(url, timeout=10) as answered:
        return json.load(answered)
    return None


def values(expression: str) -> list[float]:
    """What Prometheus has for an expression."""
    found = get(f"http://127.0.0.1:9090/api/v1/query?query={quote(expression)}") or {}
    return [float(each["value"][1]) for each in found.get("data", {}).get("result", [])]


def rules_are_evaluated() -> bool:
    """Whether Prometheus has evaluated every rule without an error."""
    found = get("http://127.0.0.1:9090/api/v1/rules") or {}
    groups = found.get("data", {}).get("groups", [])
    health = [rule["health"] for group in groups for rule in group["rules"]]
    return bool(health) and all(each == "ok" for each in health)


def received_mib() -> float:
    """What this machine has received over its networks since it started; 0 where nobody tells."""
    try:
        lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return 0.0
    counted = (line.split(":", 1) for line in lines)
    return sum(int(rest.split()[0]) for name, rest in counted if name.strip() != "lo") / 2**20


if __name__ == "__main__":
    sys.exit(main())
