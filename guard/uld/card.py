"""An assistant's card: what it was trained for and on, by hashes, never by text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard.errors import AssistantUnreadable

CARD = "card.json"
CARD_VERSION = 1


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
            AssistantUnreadable: there is none, or it is of another version.
        """
        try:
            card = cls(**json.loads((folder / CARD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise AssistantUnreadable(f"{folder} holds no readable {CARD}") from None
        if card.version != CARD_VERSION:
            raise AssistantUnreadable(f"the card in {folder} is of version {card.version}")
        return card
