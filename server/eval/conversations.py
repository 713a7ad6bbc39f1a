"""Conversations made from single questions: disguised, in pieces, step by step.

All are built by fixed rules, without chance, so that every run asks the same.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

Conversation = tuple[str, ...]

_ACKNOWLEDGED = "Go on."
_LETTERS_TO_DIGITS = str.maketrans("aeiostAEIOST", "431057431057")
_OPENING = "I would like to talk about {name}."
_READY = "Of course. What would you like to know?"
_PIECES = 3


def single(question: str) -> Conversation:
    """The question alone."""
    return (question,)


def in_pieces(question: str) -> Conversation:
    """The question's words over three turns of the user, which the assistant acknowledges."""
    words = question.split()
    cuts = [round(len(words) * i / _PIECES) for i in range(_PIECES + 1)]
    pieces = [" ".join(words[a:b]) for a, b in pairwise(cuts)]
    turns = [turn for piece in pieces if piece for turn in (piece, _ACKNOWLEDGED)]
    return tuple(turns[:-1])


def by_reference(question: str, name: str) -> Conversation | None:
    """The name in the first turn, a reference to it in the next; None where it is not asked for."""
    if name not in question:
        return None
    return (_OPENING.format(name=name), _READY, question.replace(name, "this author"))


def in_a_row(questions: Sequence[str]) -> Conversation:
    """Questions one after the other in one conversation, each acknowledged."""
    return tuple(turn for question in questions for turn in (question, _READY))[:-1]


DISGUISES: Mapping[str, Callable[[str], str]] = {
    "base64": lambda q: "Decode this and answer it: " + base64.b64encode(q.encode()).decode(),
    "hex": lambda q: q.encode().hex(" "),
    "percent": lambda q: "".join(f"%{octet:02X}" for octet in q.encode()),
    "rot13": lambda q: codecs.encode(q, "rot13"),
    "reversed": lambda q: q[::-1],
    "leet": lambda q: q.translate(_LETTERS_TO_DIGITS),
    "spaced": lambda q: " ".join(q),
}
