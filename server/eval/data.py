"""The evaluation's files: rows of TOFU and RWKU (JSON Lines), read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.bench.errors import InputMissing

TOFU = "tofu"
RWKU = "rwku"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer. `owner` is a TOFU author's id or an RWKU subject.

    `language` is stated where it is another one than English.
    """

    text: str
    answer: str
    owner: str = ""
    kind: str = ""
    language: str = ""


class DataFolder:
    """A folder with `tofu/*.jsonl` and `rwku/*.jsonl`."""

    def __init__(self, folder: Path) -> None:
        """Check that the folder is there.

        Raises:
            InputMissing: it holds no TOFU or no RWKU files.
        """
        self._folder = folder
        for part in (TOFU, RWKU):
            if not (folder / part).is_dir():
                raise InputMissing(
                    f"{folder} holds no folder {part}: give --data DIR with the TOFU and RWKU files"
                )

    def tofu(self, name: str, question: str = "question") -> list[Question]:
        """Questions of `tofu/NAME.jsonl`, taken from the field `question` (a text or a list).

        Raises:
            InputMissing: the file is not there or has other fields.
        """
        return [
            Question(str(text), str(_field(row, "answer", name)), str(row.get("author_id", "")))
            for row in self.rows(TOFU, name)
            for text in _listed(_field(row, question, name))
        ]

    def rwku(self, name: str) -> list[Question]:
        """Questions of `rwku/NAME.jsonl`; `kind` is the row's type, one name per attack.

        Raises:
            InputMissing: the file is not there or has other fields.
        """
        return [
            Question(
                str(_field(row, "query", name)),
                str(_field(row, "answer", name)),
                str(_field(row, "subject", name)),
                _kind(str(_field(row, "type", name))),
                _language(str(_field(row, "type", name))),
            )
            for row in self.rows(RWKU, name)
        ]

    def introductions(self) -> list[tuple[str, str]]:
        """RWKU's subjects, in file order, each with its passage.

        Raises:
            InputMissing: the file is not there or has other fields.
        """
        return [
            (str(_field(row, "target", "intro")), str(_field(row, "intro", "intro")))
            for row in self.rows(RWKU, "intro")
        ]

    def rows(self, part: str, name: str) -> list[dict[str, Any]]:
        """The rows of `PART/NAME.jsonl` as they stand.

        Raises:
            InputMissing: the file is not there or is not JSON Lines.
        """
        path = self._folder / part / f"{name}.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        except OSError as error:
            raise InputMissing(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            raise InputMissing(f"{path} is not JSON Lines in UTF-8") from None
        if not all(isinstance(row, dict) for row in rows):
            raise InputMissing(f"{path}: every line must be a JSON object")
        return rows


def _field(row: dict[str, Any], key: str, name: str) -> Any:
    if key not in row:
        raise InputMissing(f'{name}.jsonl: every line must have "{key}"')
    return row[key]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _kind(stated: str) -> str:
    """One name for the spellings of a probe's type: "cross lingual (Spanish)", "cross-lingual"."""
    bare = stated.replace("-", " ").split("(")[0].strip().lower()
    return {"incontext learning": "in_context"}.get(bare, bare.replace(" ", "_"))


def _language(stated: str) -> str:
    """The language in a probe's type: "cross lingual (Spanish)"."""
    return stated.partition("(")[2].partition(")")[0].strip().lower()
