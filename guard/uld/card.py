"""An assistant's card: what it was trained for and on, by hashes, never by text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from guard.errors import AssistantUnreadable

CARD = "card.json"
CARD_VERSION = 1
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Card:
    """What an assistant is, without a word of what it knows.

    Attributes:
        base, tokenizer: fingerprints of what it was trained for.
        layers, base_layers: K and N.
        data: SHA-256 of the lessons, and how many there were of each kind.
        plan: the hyper-parameters.
        metrics: the last epoch's losses.
        targets: ids of the forget targets.
        versions: of the libraries that trained it.
    """

    base: str
    tokenizer: str
    layers: int
    base_layers: int
    data: dict[str, Any]
    plan: dict[str, Any]
    metrics: dict[str, float]
    targets: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    version: int = CARD_VERSION

    def write(self, folder: Path) -> None:
        """Write it into an assistant's folder."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        (folder / CARD).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Read an assistant's card.

        Raises:
            AssistantUnreadable: there is none, it is of another version, or a field, which is
                named, is not what `write` would have written.
        """
        found = _parsed(folder / CARD)
        if not found.keys() <= {own.name for own in fields(cls)}:
            raise AssistantUnreadable(f"{CARD}: there is a field that is not known")
        data = found.get("data")
        nested = data.items() if isinstance(data, dict) else ()
        values = found | {f"data.{name}": value for name, value in nested}
        for name, (fits, kind) in _FIELDS.items():
            if not fits(values.get(name)):
                raise AssistantUnreadable(f"{CARD}: {name} must be {kind}")
        return cls(**found)


def _parsed(path: Path) -> dict[str, Any]:
    """The JSON object in a file, all of whose strings can be written as UTF-8."""
    try:
        # Reading a pipe would wait for ever, a device never end.
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise ValueError
        found = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError):
        raise AssistantUnreadable(f"the folder holds no readable {CARD}") from None
    if not isinstance(found, dict):
        raise AssistantUnreadable(f"{CARD} is not a JSON object")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_count_or_nothing(value: object) -> bool:
    return value is None or _is_count(value)


def _is_depth(value: object) -> bool:
    return _is_count(value) and value != 0


def _is_finite(value: object) -> bool:
    # An integer may be too large for a float; nothing compares with NaN.
    return type(value) is not bool and isinstance(value, (int, float)) and abs(value) < 1e300


def _are_finite(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_finite, value.values()))


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_versions(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_version(value: object) -> bool:
    return type(value) is int and value == CARD_VERSION


# What is checked of each field, and how it is said.
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "version": (_is_version, str(CARD_VERSION)),
    "base": (_is_text, "a string"),
    "tokenizer": (_is_text, "a string"),
    "layers": (_is_depth, "a whole number of at least 1"),
    "base_layers": (_is_depth, "a whole number of at least 1"),
    "data": (_is_object, "an object"),
    "data.sha256": (_is_text, "a string"),
    "data.forget": (_is_count, "a whole number"),
    "data.flat": (_is_count, "a whole number"),
    "data.stand_ins": (_is_count_or_nothing, "a whole number"),  # not in old ones
    "plan": (_is_object, "an object"),
    "metrics": (_are_finite, "an object of finite numbers"),
    "targets": (_are_texts, "a list of strings"),
    "versions": (_are_versions, "an object of strings"),
}
