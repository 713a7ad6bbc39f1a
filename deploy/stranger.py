"""A stranger's path, timed: from a clean clone to a guarded answer, a target of one's own, metrics.

    python deploy/stranger.py FOLDER [--json FILE]

Clones this repository into FOLDER and does there what the documents say, with their own commands:
`make setup` and `make demo` (README) and what that invites to ask; then, with the demo's model, `A
first target` (docs/pages/guide/first-target.md); then Prometheus (deploy/README.md). Needs the
ports 8000, 8001 and 9090, and what the documents ask for: Python, make, a C++ compiler, git, curl
and Prometheus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[1]
PORTS = (8000, 8001, 9090)
HUB_NAME, MODEL = "Qwen/Qwen3-0.6B", ".cache/demo-model"
# What no answer to the demo's first question may say.
FACT = re.compile(r"\bKuwait\b", re.IGNORECASE)
PATIENCE_SECONDS = 3600.0
# Of a server with room for nothing but this: the machine may be small.
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


class Clock:
    """The steps, with their seconds since the clone began, told as they are reached."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.steps: dict[str, float] = {}

    def reached(self, step: str) -> None:
        """Note a step."""
        self.steps[step] = round(time.monotonic() - self._began, 1)
        print(f"{self.steps[step]:8.1f} s  {step}", flush=True)


def main() -> int:
    """Walk the path; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder, for the clone")
    parser.add_argument("--json", type=Path, help="write the times here")
    asked = parser.parse_args()
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SystemExit(f"something listens on port {port}")
    clock = Clock()
    shell(ROOT, f"git clone -q . '{asked.folder.absolute()}'")
    clock.reached("cloned")
    walk(asked.folder.absolute(), clock)
    if asked.json is not None:
        asked.json.write_text(json.dumps(clock.steps, indent=2) + "\n", encoding="utf-8")
    return 0


def walk(clone: Path, clock: Clock) -> None:
    """What the documents say, in the clone."""
    target, watching = (
        sessions(clone, page) for page in ("docs/pages/guide/first-target.md", "deploy/README.md")
    )
    install = next(text for text in target if "make setup" in text)
    shell(clone, install)
    clock.reached("make setup")
    with running(clone, "make demo", "Ctrl-C stops the server") as printed:
        clock.reached("make demo serves")
        question = next(line for line in printed() if line.startswith("curl "))
        answer = json.loads(shell(clone, question))["choices"][0]["message"]["content"]
        if FACT.search(answer):
            raise SystemExit("the answer says what is to be forgotten")
        clock.reached("guarded answer")
    serve = next(text for text in target if text.startswith("lethegate serve"))
    prometheus = next(text for text in watching if text.startswith("prometheus "))
    activate = install.splitlines()[-1]
    with running(clone, f"{activate}\n{serve} --enforce-eager", "Application startup complete"):
        wait_until(lambda: get("http://127.0.0.1:8000/readyz") is not None)
        clock.reached("own server is ready")
        register = next(text for text in target if "/admin/v1/targets" in text)
        shell(clone, f"{activate}\n{register}")
        wait_until(lambda: "active" in shell(clone, f"{activate}\nlethegate targets list"))
        clock.reached("own target in force")
        check = next(text for text in target if "lethegate check" in text)
        line = next(line for line in check.splitlines() if line.startswith("lethegate check"))
        if "steer" not in shell(clone, f"{activate}\n{line}"):
            raise SystemExit("the own target is not found in a prompt about it")
        clock.reached("own target steers")
        with running(clone, prometheus, None):
            wait_until(lambda: values("up") == [1.0, 1.0])
            wait_until(lambda: sum(values("lethegate_requests_total")) > 0)
            clock.reached("metrics scraped")


def sessions(clone: Path, page: str) -> list[str]:
    """A page's shell blocks, with the demo's model for the one that would be fetched."""
    path = clone / "docs" / "blocks.py"
    spec = importlib.util.spec_from_file_location("blocks", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = [block.text for block in module.blocks_of(clone / page) if block.language == "sh"]
    # The demo's model has room for 512 tokens.
    return [text.replace(HUB_NAME, MODEL).replace("4096", "512").strip() for text in found]


def environment(clone: Path) -> dict[str, str]:
    """A home of its own, and no settings of anybody else's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LETHEGATE_", "PYTHONPATH"))}
    home = clone.with_name(f"{clone.name}-home")
    home.mkdir(exist_ok=True)
    # Where packages come from is the machine's affair, caches are not: they begin empty.
    settings = Path.home() / ".config" / "pip" / "pip.conf"
    source = {"PIP_CONFIG_FILE": str(settings)} if settings.exists() else {}
    return {**source, **kept, **SMALL, "HOME": str(home)}


def shell(folder: Path, text: str) -> str:
    """What a shell prints, which must succeed."""
    done = subprocess.run(
        ["bash", "-ec", text],
        cwd=folder,
        env=environment(folder) if folder != ROOT else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"status {done.returncode} of:\n{text}\n{done.stdout}")
    return done.stdout


@contextmanager
def running(clone: Path, text: str, said: str | None) -> Iterator[Callable[[], list[str]]]:
    """A command that goes on, once it has said something; Ctrl-C ends it. Gives what it printed."""
    log = clone.with_name(f"{clone.name}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-ec", text],
            cwd=clone,
            env=environment(clone),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def printed() -> list[str]:
        if process.poll() is not None:
            raise SystemExit(f"it ended: {text}\n{log.read_text(errors='replace')[-3000:]}")
        return log.read_text(errors="replace").splitlines()

    try:
        wait_until(lambda: said is None or any(said in line for line in printed()))
        yield printed
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(120)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it takes too long")
        time.sleep(0.25)


def get(url: str) -> Any:
    """The JSON at a URL; None where nobody answers with a 200."""
    with suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
    return None


def values(expression: str) -> list[float]:
    """What Prometheus has for an expression."""
    found = get(f"http://127.0.0.1:9090/api/v1/query?query={quote(expression)}") or {}
    return [float(each["value"][1]) for each in found.get("data", {}).get("result", [])]


if __name__ == "__main__":
    sys.exit(main())
