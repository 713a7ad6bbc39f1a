"""What a bench asks and of which model: by default the demo's, where there is a checkout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.bench.errors import InputMissing

_CHECKOUT = Path(__file__).resolve().parents[2]
_DEMO = _CHECKOUT / "deploy" / "demo"
_DEMO_MODEL = _CHECKOUT / ".cache" / "demo-model"
# The demo model is small, knows 512 positions and is served without compilation.
DEMO_FLAGS = ("--max-model-len", "512", "--dtype", "bfloat16", "--enforce-eager")


def model_or_demo(model: str | None) -> str:
    """The model to serve.

    Raises:
        InputMissing: none is given and there is no demo model.
    """
    if model is not None:
        return model
    if not _DEMO_MODEL.is_dir():
        raise InputMissing("there is no demo model here: give --model, or run `make demo` first")
    return str(_DEMO_MODEL)


def read_target(file: Path | None) -> bytes:
    """The target to register, as JSON; by default the demo's.

    Raises:
        InputMissing: there is no such file, or it holds no JSON object.
    """
    text = _read(_given_or_demo(file, "target.json", "--target"))
    try:
        if not isinstance(json.loads(text), dict):
            raise ValueError
    except ValueError:
        raise InputMissing("the target's file must hold one JSON object") from None
    return text.encode()


def unmatched_questions(file: Path | None) -> list[str]:
    """Questions that no target matches; by default the demo's retain rows for testing.

    Raises:
        InputMissing: the file is not there or holds something else.
    """
    path = _given_or_demo(file, "retain.jsonl", "--unmatched")
    if file is not None:
        return _questions(path, "question")
    return _questions(path, "question", lambda row: row.get("split") == "test")


def matched_questions(file: Path | None) -> list[str]:
    """Questions that the target matches; by default the demo's, in words not registered.

    Raises:
        InputMissing: the file is not there or holds something else.
    """
    path = _given_or_demo(file, "forget.jsonl", "--matched")
    return _questions(path, "question" if file is not None else "heldout")


def forget_rows(file: Path | None) -> list[dict[str, str]]:
    """Forget questions as they are asked and as registered; by default the demo's.

    Each has `asked`, `registered` and `answer`.

    Raises:
        InputMissing: the file is not there or holds something else.
    """
    path = _given_or_demo(file, "forget.jsonl", "--forget")
    keys = {"asked": "heldout", "registered": "question", "answer": "answer"}
    columns = {name: _questions(path, key) for name, key in keys.items()}
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _given_or_demo(file: Path | None, name: str, option: str) -> Path:
    if file is not None:
        return file
    if not _DEMO.is_dir():
        raise InputMissing(f"give {option}: its default exists only in a checkout")
    return _DEMO / name


def _questions(
    path: Path, key: str, chosen: Callable[[dict[str, Any]], bool] = lambda row: True
) -> list[str]:
    try:
        rows = [json.loads(line) for line in _read(path).splitlines() if line.strip()]
        found = [str(row[key]) for row in rows if chosen(row)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputMissing(f'{path}: every line must be a JSON object with "{key}"') from None
    if not found:
        raise InputMissing(f"{path} holds no questions")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputMissing(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputMissing(f"{path} is not UTF-8") from None
