"""Targets as JSON lines, however they are cut on their way."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidField
from server.target_lines import TargetLines

LINES = [
    json.dumps({"id": "t1", "phrases": ["Port Sorrel"]}).encode(),
    b"",
    json.dumps({"id": "t2", "phrases": ["x"], "colour": "red"}).encode(),
    b"{",
    json.dumps({"id": "t3", "aliases": ["Ada"], "phrases": ["y"]}).encode(),
]


def _read(*parts: bytes) -> TargetLines:
    lines = TargetLines()
    for part in parts:
        lines.feed(part)
    lines.end()
    return lines


@given(st.lists(st.integers(0, 200), max_size=20), st.booleans())
def test_cuts_change_nothing(cuts: list[int], ends: bool) -> None:
    """Targets and faults have the numbers of their lines; the last line may end with the text."""
    whole = b"\n".join(LINES) + b"\n" * ends
    places = [0, *sorted(cuts), len(whole)]
    found = _read(*(whole[a:b] for a, b in pairwise(places)))

    assert {line: target.id for line, target in found.targets.items()} == {1: "t1", 5: "t3"}
    assert [(problem.line, problem.param) for problem in found.problems] == [
        (3, "colour"),
        (4, None),
    ]
    with pytest.raises(InvalidField, match="line 3"):
        found.refuse_problems()


@pytest.mark.timeout(20)
def test_a_long_line_in_many_pieces_is_read_once() -> None:
    """A line of 32 MB in pieces of 1 KB; copied with every piece it would be 500 GB."""
    found = _read(*[b" " * 1024] * 32_768, LINES[0])

    assert [target.id for target in found.targets.values()] == ["t1"]
