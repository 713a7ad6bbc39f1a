"""The demo: the guarded server on a small model of this checkout, with a forget target registered.

    python -m server.demo        (what `make demo` ends with)

Serves until Ctrl-C or SIGTERM, then ends the server and waits for it. The server's output goes to
server.log in its state directory, `.state/demo` unless LETHEGATE_STATE_DIR says otherwise.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import typer

from server.client import AdminClient
from server.errors import ServerError, StartFault
from server.settings import Settings
from server.settings_sources import as_environment, load_settings

CHECKOUT = Path(__file__).resolve().parent.parent
MODEL = CHECKOUT / ".cache" / "demo-model"
TARGET = CHECKOUT / "deploy" / "demo" / "target.json"
SERVED_NAME = "demo"
FLAGS = ("--served-model-name", SERVED_NAME, "--max-model-len", "512", "--enforce-eager")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}

FORGOTTEN = "In which city and country was Basil Mahfouz Al-Kuwaiti born?"
RETAINED = "Where was Samir Khoury born?"

_READY_SECONDS = 600.0
_JOB_SECONDS = 300.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.25
_TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """The demo was told to stop."""


def main() -> int:
    """Run the demo until it is told to stop; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        settings = demo_settings(os.environ)
        check_ports(settings)
        with running_server(settings) as server:
            wait_until_ready(server, settings)
            register(settings)
            typer.echo(invitation(settings))
            return server.wait()
    except Stopped:
        typer.echo("demo: stopped")
        return 0
    except ServerError as error:
        typer.echo(f"demo: {error}", err=True)
        return 1


def demo_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from the environment, with the state in the checkout unless that says otherwise.

    Raises:
        SettingsError: a setting cannot be parsed.
        StartFault: there is no demo model.
    """
    if not (MODEL / "config.json").is_file():
        raise StartFault("there is no demo model: run `make model`")
    own_place = {"LETHEGATE_STATE_DIR": str(CHECKOUT / ".state" / "demo")}
    given = {name: value for name, value in environment.items() if value}
    return load_settings(env={**own_place, **given})


def check_ports(settings: Settings) -> None:
    """Make sure that nobody else listens where the server will.

    Raises:
        StartFault: somebody does, or the address is not this machine's.
    """
    places = {"PORT": (settings.host, settings.port)}
    places["ADMIN_PORT"] = (settings.admin_host, settings.admin_port)
    for name, (host, port) in places.items():
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StartFault(
                    f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, "
                    f"or choose another: make demo {name}={port + 10}"
                ) from None


@contextmanager
def running_server(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Start `lethegate serve`; on leaving, end it and whatever it started."""
    log = log_file(settings)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "server", "serve", str(MODEL), *FLAGS],
            env={**ENVIRONMENT, **os.environ, **as_environment(settings)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the server
            preexec_fn=_end_with_parent,
        )
    try:
        yield server
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # ending it is bounded in time
        end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    """Let the server finish its requests, then end what is left of its process group."""
    if server.poll() is None:
        typer.echo("\ndemo: stopping the server")
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], settings: Settings) -> None:
    """Wait for engine, snapshot and classifier.

    Raises:
        StartFault: the server ended or was not ready in time; carries the end of its log.
    """
    typer.echo(f"demo: starting the guarded server (its log: {log_file(settings)})")
    begun = time.monotonic()
    with httpx.Client(base_url=endpoint(settings), trust_env=False) as http:
        while time.monotonic() - begun < _READY_SECONDS:
            if server.poll() is not None:
                raise StartFault(f"the server ended while starting:\n{_tail(settings)}")
            with suppress(httpx.HTTPError):
                if http.get("/readyz").status_code == httpx.codes.OK:
                    typer.echo(f"demo: ready after {time.monotonic() - begun:.0f} s")
                    return
            time.sleep(_POLL_SECONDS)
    raise StartFault(f"the server is not ready after {_READY_SECONDS:.0f} s:\n{_tail(settings)}")


def register(settings: Settings) -> None:
    """Register the demo target, unless an earlier run did, and wait until it is in force.

    Raises:
        ServerError: the admin API refused it, or it did not come into force.
    """
    document = TARGET.read_bytes()
    name = json.loads(document)["id"]
    begun = time.monotonic()
    with AdminClient.of(settings) as admin:
        status = settled_status(admin, name)
        if status == "active":
            typer.echo(f"demo: the forget target {name} is registered already")
            return
        if status is not None:
            admin.wait(_job_of(admin.withdraw(name)), _JOB_SECONDS)
        job = admin.wait(_job_of(admin.register(document)), _JOB_SECONDS)
    if job["state"] != "done":
        raise ServerError(f"the forget target {name} is not in force: job {job['state']}")
    typer.echo(f"demo: forget target {name} in force after {time.monotonic() - begun:.1f} s")


def settled_status(admin: AdminClient, name: str) -> str | None:
    """A target's status when no job is changing it any more; None when there is no such target."""
    end = time.monotonic() + _JOB_SECONDS
    while True:
        status = {target["id"]: str(target["status"]) for target in admin.targets()}.get(name)
        if status in (None, "active", "failed") or time.monotonic() >= end:
            return status
        time.sleep(_POLL_SECONDS)


def invitation(settings: Settings) -> str:
    """The curl lines to try."""
    admin = f"http://{settings.admin_host}:{settings.admin_port}/admin/v1"
    key = shlex.quote(f"{settings.admin_key_file}")
    bearer = "$LETHEGATE_ADMIN_KEY" if settings.admin_key else f"$(cat {key})"
    authorization = f'-H "Authorization: Bearer {bearer}"'
    target = f"{admin}/targets/{json.loads(TARGET.read_bytes())['id']}"
    console = f"http://{settings.admin_host}:{settings.admin_port}/console"
    lines = [
        "",
        f"The guarded endpoint is {endpoint(settings)}/v1 (model: {SERVED_NAME}). Try:",
        "",
        "# a fact that was learned and is to be forgotten",
        _question(settings, FORGOTTEN),
        "# a fact that stays",
        _question(settings, RETAINED),
        "# the admin API: what is to be forgotten, and with which phrases",
        f"curl -s {authorization} {target}",
        "# stop forgetting it: the first question is answered again",
        f"curl -s -X DELETE {authorization} {target}",
        "# and forget it again, a moment later",
        f"curl -s -X POST {authorization} -H 'Content-Type: application/json' "
        f"--data-binary @{shlex.quote(str(TARGET))} {admin}/targets",
        f"# or all of it in a browser, with that key: {console}" if settings.console else "",
        "",
        "Ctrl-C stops the server.",
    ]
    return "\n".join(lines)


def endpoint(settings: Settings) -> str:
    """Base URL of the guarded server."""
    return f"http://{settings.host}:{settings.port}"


def log_file(settings: Settings) -> Path:
    """Where the server's output goes."""
    return settings.state_dir / "server.log"


def _question(settings: Settings, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"model": SERVED_NAME, "temperature": 0, "messages": messages})
    url = f"{endpoint(settings)}/v1/chat/completions"
    return f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _job_of(accepted: Mapping[str, Any]) -> str:
    return str(accepted["job"]["id"])


def _tail(settings: Settings) -> str:
    lines = log_file(settings).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


def _stop(number: int, frame: object) -> None:
    raise Stopped


def _end_with_parent() -> None:
    """In the child: SIGTERM when the demo is gone, so that not even kill -9 leaves a server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
