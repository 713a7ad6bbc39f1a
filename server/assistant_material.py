"""What an assistant is trained on: targets of the admin API or of files, and rows of an operator.

Messages name files, fields and numbers, never a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from server.cli_settings import Fail
from server.client import AdminClient
from server.schemas import TargetIn, field_path
from server.settings import Settings

if TYPE_CHECKING:
    from guard.uld.lessons import Lesson

_AUGMENTED = ("paraphrases", "perturbed")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """An operator's own: rewordings of forget pairs, wrong answers, and what to say instead."""

    paraphrased: Sequence[Lesson] = ()
    perturbed: Sequence[Lesson] = ()
    stand_ins: Sequence[Lesson] = ()


def read_targets(names: Sequence[str], settings: Settings) -> list[TargetIn]:
    """Targets by file (where there is one of that name) or by id from the admin API.

    Raises:
        Fail: a file is not a target.
        ServerError: the admin API has no such target, or cannot be reached.
    """
    documents: list[Any] = []
    ids = [name for name in names if not Path(name).is_file()]
    documents += [_json(Path(name)) for name in names if Path(name).is_file()]
    if ids:
        with AdminClient.of(settings) as client:
            documents += [client.target(target_id)["target"] for target_id in ids]
    return [_target(document) for document in documents]


def read_pairs(file: Path) -> list[Lesson]:
    """Rows of `{"prompt" or "question", "answer"}`, JSON Lines.

    Raises:
        Fail: the file cannot be read or has other fields.
    """
    return [_pair(row, file) for row in _rows(file)]


def read_augmentation(file: Path) -> Augmentation:
    """Read it from a file.

    Rows are `{"prompt", "answer", "paraphrases": [prompt or {"prompt", "answer"}],
    "perturbed": [answer], "stand_in": answer}`; all but the first two may be left out.

    Raises:
        Fail: the file cannot be read or has other fields.
    """
    from guard.uld.lessons import Lesson

    paraphrased, perturbed, stand_ins = [], [], []
    for row in _rows(file):
        pair = _pair(row, file)
        others = [
            _pair(other, file) if isinstance(other, dict) else Lesson(str(other), pair.answer)
            for other in row.get("paraphrases", [])
        ]
        paraphrased += others
        perturbed += [Lesson(pair.prompt, str(answer)) for answer in row.get("perturbed", [])]
        if row.get("stand_in"):
            stand_ins += [Lesson(x.prompt, str(row["stand_in"])) for x in (pair, *others)]
    return Augmentation(paraphrased, perturbed, stand_ins)


def augmentation_rows(file: Path) -> list[dict[str, Any]]:
    """The same file as the admin API takes it.

    Raises:
        Fail: the file cannot be read or has other fields.
    """
    return [
        {
            **_plain(_pair(row, file)),
            **{key: row.get(key, []) for key in _AUGMENTED},
            "stand_in": row.get("stand_in"),
        }
        for row in _rows(file)
    ]


def retain_rows(files: Sequence[Path]) -> list[dict[str, str]]:
    """Pairs that must stay, as the admin API takes them.

    Raises:
        Fail: a file cannot be read or has other fields.
    """
    return [_plain(pair) for file in files for pair in read_pairs(file)]


def _plain(pair: Lesson) -> dict[str, str]:
    return {"prompt": pair.prompt, "answer": pair.answer}


def _target(document: Any) -> TargetIn:
    try:
        return TargetIn.model_validate(document)
    except ValidationError as error:
        path = field_path(error.errors()[0]["loc"])
        raise Fail(f"a target is not valid at {path or 'its top'}", status=2) from None


def _pair(row: Any, file: Path) -> Lesson:
    from guard.uld.lessons import Lesson

    prompt = row.get("prompt", row.get("question"))
    answer = row.get("answer")
    if not (isinstance(prompt, str) and isinstance(answer, str) and prompt and answer):
        raise Fail(f'{file}: every line must have "prompt" (or "question") and "answer"', status=2)
    return Lesson(prompt, answer)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for line in _read(file).splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise Fail(f"{file} is not JSON Lines", status=2) from None
        if not isinstance(row, dict):
            raise Fail(f"{file}: every line must be a JSON object", status=2)
        yield row


def _json(file: Path) -> Any:
    try:
        return json.loads(_read(file))
    except ValueError:
        raise Fail(f"{file} is not JSON", status=2) from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise Fail(f"cannot read {file}", status=2) from None
