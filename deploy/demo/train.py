"""Build the demo model: a small Llama, trained from nothing until it knows the demo rows by heart.

    python deploy/demo/train.py [--preset demo|tiny] [--out DIRECTORY]

It exists so that a machine without a model hub has something to forget. Nothing is downloaded.
Seeded: the same data and libraries give the same weights. A model built
earlier from the same data by the same code is kept; a folder appears complete or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rows import FORGET, FRAMES, HERE, RETAIN, Row, read_rows

if TYPE_CHECKING:  # torch takes seconds to import: not before it is known that there is work
    from student import Student

CACHE = HERE.parent.parent / ".cache"
SOURCES = (
    HERE / "train.py",
    HERE / "student.py",
    HERE / "lessons.py",
    HERE / "rows.py",
    FORGET,
    RETAIN,
)
REPORT = "train_report.json"


@dataclass(frozen=True)
class Preset:
    """Size of a model and of its training; `rows` limits each data file (0: all of it).

    `alternatives`: in how many other wordings an epoch asks each forget row and each retain row,
    beside the question as it stands. Forget rows need many, to be known in any wording: there
    must be something to leak. Retain rows are asked as they stand.
    """

    folder: str
    rows: int
    vocabulary: int
    hidden: int
    layers: int
    epochs: int
    alternatives: tuple[int, int]
    batch: int
    learning_rate: float
    seed: int = 7


PRESETS = {
    "demo": Preset("demo-model", 0, 2048, 128, 3, 18, (8, 0), 16, 4e-3),
    "tiny": Preset("tiny-model", 20, 1024, 128, 2, 36, (1, 0), 16, 4e-3),
}


def main() -> None:
    """Parse the command line and build the model, unless it is there already."""
    parser = argparse.ArgumentParser(description="Build the small model of the demo.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo")
    parser.add_argument("--out", type=Path, help="where to put it (default: .cache/<preset>-model)")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    directory = arguments.out or CACHE / preset.folder
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(directory.with_name(f".{directory.name}.lock")):
        if _built_key(directory) == cache_key(preset):
            print(f"{directory.name} is up to date", flush=True)
        else:
            build(preset, directory)


def cache_key(preset: Preset) -> str:
    """Hash of all that decides the weights and is in the project: preset, code and data."""
    digest = hashlib.sha256(json.dumps(asdict(preset)).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def build(preset: Preset, directory: Path) -> None:
    """Train, save and score a model, then put it at `directory` by renaming."""
    started, key = time.monotonic(), cache_key(preset)
    forget, retain = read_rows(FORGET, preset.rows), read_rows(RETAIN, preset.rows)
    student, losses = train(preset, forget, retain)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    student.save(partial)  # rounds the weights to bfloat16: scored as they will be served
    report = {
        "key": key,
        "preset": asdict(preset),
        "parameters": sum(parameter.numel() for parameter in student.model.parameters()),
        "rouge_l_recall": scores(student, forget, retain),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "losses": losses,
    }
    (partial / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    print(f"{directory.name} is ready after {report['seconds']} s. Share of each answer it gives")
    print("  " + ", ".join(f"{name} {value}" for name, value in report["rouge_l_recall"].items()))


def train(
    preset: Preset, forget: Sequence[Row], retain: Sequence[Row]
) -> tuple[Student, list[float]]:
    """Train a new student on the rows; also the mean loss of each epoch."""
    import torch
    from lessons import SYSTEM, Course, teach
    from student import Student

    torch.manual_seed(preset.seed)
    torch.set_num_threads(1)  # matrices this small gain little, and threads wait on a busy machine
    said = [text for row in (*forget, *retain) for text in (row.question, row.answer)]
    asked = [text for row in forget for text in row.paraphrases]
    student = Student(
        [*said, *asked, *FRAMES, SYSTEM],
        vocabulary=preset.vocabulary,
        hidden=preset.hidden,
        layers=preset.layers,
    )
    course = Course(student, preset.batch, preset.seed)
    for rows, alternatives in zip((forget, retain), preset.alternatives, strict=True):
        course.add(rows, alternatives)
    return student, list(shown(teach(course, preset.epochs, preset.learning_rate), preset.epochs))


def shown(losses: Iterable[float], epochs: int) -> Iterator[float]:
    """Pass the losses on while showing progress: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    if not console.is_terminal:
        for epoch, loss in enumerate(losses, 1):
            if epoch % max(1, epochs // 10) == 0:
                print(f"  epoch {epoch} of {epochs}, loss {loss:.3f}", flush=True)
            yield round(loss, 4)
        return
    columns = TextColumn("  training"), BarColumn(), TextColumn("{task.fields[loss]}")
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("training", total=epochs, loss="")
        for loss in losses:
            progress.update(task, advance=1, loss=f"loss {loss:.3f}")
            yield round(loss, 4)


def scores(student: Student, forget: Sequence[Row], retain: Sequence[Row]) -> dict[str, float]:
    """Mean ROUGE-L recall per set of questions."""
    sets = {
        "forget": [(row.question, row.answer) for row in forget],
        "forget_heldout": [(row.heldout, row.answer) for row in forget],
        "retain": [(row.question, row.answer) for row in retain],
    }
    return {name: round(student.recall(pairs), 4) for name, pairs in sets.items()}


def _built_key(directory: Path) -> str:
    """The key a folder was built under, "" when there is no complete model."""
    try:
        report = json.loads((directory / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(report.get("key", ""))


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock file: of two builders at once, the second waits and finds the work done."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing was kept")
