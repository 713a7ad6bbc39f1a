"""Neighbouring turns joined: a question asked in pieces, a name in one turn and "she" in the next.

Joined texts are judged beside the turns alone, never instead of them. Roles are not known here: the
turns of one speaker are assumed to be neighbours, or every second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# Joins are made of this many texts at the end; earlier ones were at the end of earlier requests.
LAST_TURNS = 12
# Most characters of a joined turn: its end where another follows, its beginning where it is last.
_BEFORE, _LAST = 200, 280


def question_joins(texts: Sequence[str]) -> list[str]:
    """Joins for the encoder, at most 4 * LAST_TURNS + 3, each of at most 2,700 characters.

    Every text with the one before it, with the second before it, and with the second and fourth;
    then every second text and all of them in a row.
    """
    spoken = [text for text in texts[-LAST_TURNS:] if text.strip()]
    last = [" ".join(_trimmed(text).split()) for text in spoken]
    groups = [
        [last[i - back] for back in backs if i - back >= 0]
        for i in range(1, len(last))
        for backs in ((1, 0), (2, 0), (2, 1, 0), (4, 2, 0))
    ]
    groups += [last[::-1][::2][::-1], last[::-1][1::2][::-1], last]
    joins = (_join(group) for group in groups if len(set(group)) > 1)
    alone = set(last)
    return [joined for joined in dict.fromkeys(joins) if joined not in alone]


def name_joins(texts: Sequence[str]) -> Iterator[str]:
    """Joins for the alias search, over the whole conversation: all texts, and every second one."""
    if len(texts) > 1:
        yield " ".join(text.strip() for text in texts)
    if len(texts) > 2:
        yield " ".join(text.strip() for text in texts[::2])
        yield " ".join(text.strip() for text in texts[1::2])


def _trimmed(text: str) -> str:
    """A cheap bound before any work: both ends of a long text."""
    return text if len(text) <= 2 * _LAST else f"{text[:_LAST]} {text[-_LAST:]}"


def _join(group: Sequence[str]) -> str:
    """Ends of the earlier texts and the beginning of the last, cut between words."""
    parts = [part if len(part) <= _BEFORE else _end(part) for part in group[:-1]]
    last = group[-1] if len(group[-1]) <= _LAST else _beginning(group[-1])
    return " ".join([*parts, last])


def _end(text: str) -> str:
    return text[-_BEFORE:].partition(" ")[2] or text[-_BEFORE:]


def _beginning(text: str) -> str:
    return text[:_LAST].rpartition(" ")[0] or text[:_LAST]
