"""What a training did, step by step: its log (JSON Lines) and its curves. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guard.uld.curve import loss_svg

LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did: losses in nats (None where the batch held no such lesson)."""

    step: int
    steps: int
    epoch: float
    forget: float | None
    uniform: float | None
    learning_rate: float
    seconds: float
    stand_in: float | None = None

    @property
    def losses(self) -> dict[str, float]:
        """Those that the step had."""
        found = {"forget": self.forget, "uniform": self.uniform, "stand_in": self.stand_in}
        return {name: value for name, value in found.items() if value is not None}

    def line(self) -> str:
        """As it stands in the log."""
        return json.dumps(asdict(self)) + "\n"


def read_steps(path: Path) -> list[Step]:
    """The steps in a log, in order; up to the first line that is not one. None without a log."""
    found: list[Step] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for line in lines:
        try:
            found.append(_step(json.loads(line)))
        except (ValueError, TypeError):
            break  # half a line, from a process that was killed while it wrote
    return found


def last_step(path: Path) -> Step | None:
    """The newest step of a log that may be long."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return _step(json.loads(line))
        except (ValueError, TypeError):
            continue
    return None


def curves(steps: Sequence[Step]) -> dict[str, list[tuple[float, float]]]:
    """Each loss's mean per epoch: points of (epoch, nats)."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name in ("forget", "uniform", "stand_in"):
        by_epoch: dict[int, list[float]] = {}
        for step in steps:
            if name in step.losses:
                epoch = -int(-step.epoch // 1)
                by_epoch.setdefault(epoch, []).append(step.losses[name])
        if name != "stand_in" or by_epoch:
            found[name] = [(float(e), sum(v) / len(v)) for e, v in sorted(by_epoch.items())]
    return found


def curve_picture(steps: Sequence[Step]) -> str:
    """The curves as SVG."""
    return loss_svg(curves(steps))


def _step(row: object) -> Step:
    if not isinstance(row, dict):
        raise TypeError
    step = Step(**row)
    numbers = (step.step, step.steps)
    whole = all(type(x) is int and x > 0 for x in numbers)
    others = (step.epoch, step.learning_rate, step.seconds, *step.losses.values())
    if not whole or not all(type(x) in (int, float) and abs(x) < 1e300 for x in others):
        raise ValueError
    return step
