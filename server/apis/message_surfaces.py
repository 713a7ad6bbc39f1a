"""The output surfaces of an Anthropic message, as the deltas of one choice.

All text blocks are one surface, as the engine wrote them one after the other; so are all thinking
blocks. A client may show the blocks apart, with a word border between them, so each block is a
surface of its own too. A tool call's input is judged as the JSON it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from server.apis.cuts import shown_to_the_end
from server.choice_shield import ChoiceShield, ShieldPolicy

Delta = dict[str, Any]

_TEXT_KEYS = {"text": ("content", "text"), "thinking": ("reasoning", "reasoning_content")}


def block_delta(index: int, block: dict[str, Any]) -> Delta:
    """The texts of a block, whole or at its beginning.

    Raises:
        ValueError: it is of an unknown kind.
    """
    kind = block["type"]
    if kind in _TEXT_KEYS:
        return _text(index, kind, block[kind])
    if kind == "tool_use":
        function = {"name": block["name"]}
        if block.get("input"):
            function["arguments"] = json.dumps(block["input"], ensure_ascii=False)
        # Some models write the call's id themselves.
        return {"tool_calls": [{"index": index, "id": block["id"], "function": function}]}
    raise ValueError("unknown kind of block")


def delta_of(index: int, delta: dict[str, Any]) -> Delta:
    """The texts of a block's delta.

    Raises:
        ValueError: it is of an unknown kind.
    """
    kind = delta["type"]
    if kind in ("text_delta", "thinking_delta"):
        kind = kind.removesuffix("_delta")
        return _text(index, kind, delta[kind])
    if kind == "input_json_delta":
        call = {"index": index, "function": {"arguments": delta["partial_json"]}}
        return {"tool_calls": [call]}
    if kind == "signature_delta":
        return {}
    raise ValueError("unknown kind of delta")


@dataclass(slots=True)
class Said:
    """What was shown of an answer: of all blocks of a kind, and of the present block alone."""

    joined: dict[str, str] = field(default_factory=dict)
    own: str = ""

    def begin(self) -> None:
        """Another block."""
        self.own = ""

    def add(self, kind: str, text: str) -> None:
        """More of the present block."""
        self.joined[kind] = self.joined.get(kind, "") + text
        self.own += text

    def last(self, policy: ShieldPolicy, kind: str, kept: str) -> str:
        """What of the answer's last text may be shown: its end is a word border everywhere."""
        return shown_to_the_end(policy, (self.joined.get(kind, ""), self.own), kept)


def finish_block(shield: ChoiceShield, index: int) -> None:
    """A block has ended."""
    for _, own in _TEXT_KEYS.values():
        shield.finish_surface(("delta", "blocks", index, own))


def _text(index: int, kind: str, text: str) -> Delta:
    joined, own = _TEXT_KEYS[kind]
    return {joined: text, "blocks": [{"index": index, own: text}]}
