"""What reads bytes and texts of others: any input gives a result or a declared error, in time.

Each property is run a little by default, and at length by `make fuzz`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from server.provenance.uploads import UploadWriter
from server.sse import EventSplitter
from tests.server.parser_properties import PROPERTIES, READERS, TEXTS

MILLION = 1_000_000
# On one core of a slow and busy machine; time that grows with the square would be minutes.
SECONDS_PER_MILLION = 30.0
UNITS = TEXTS.filter(bool)


def _million(reader: str, unit: str, tail: str) -> None:
    text = (unit * (MILLION // len(unit) + 1))[:MILLION] + tail
    begun = time.process_time()
    READERS[reader](text)
    spent = time.process_time() - begun

    assert spent < SECONDS_PER_MILLION, (reader, unit, spent)


def _run(name: str, examples: int, number: int) -> None:
    function, strategies = PROPERTIES[name]
    checks = list(HealthCheck)
    held = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=checks
    )(given(*strategies)(function))
    seed(number)(held)()


@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_a_property_holds(name: str) -> None:
    """A little of each."""
    _run(name, 150, 1)


@pytest.mark.parametrize("unit", ["A-", "é\u0301\u200b", "ab ", "SGVsbG8gd29ybGQ= "])
@pytest.mark.parametrize("reader", ["normaliser", "phrase matcher", "shield", "words"])
def test_a_million_characters_take_bounded_time(reader: str, unit: str) -> None:
    """Of one repeated piece, which is where time by the square of the length shows."""
    _million(reader, unit, "b")


@pytest.mark.parametrize("size", [64, 1 << 20])
def test_a_million_bytes_of_events_are_split_in_bounded_time(size: int) -> None:
    """One long event in small pieces, and many short ones in one piece."""
    long, short = b"data: " + b"x" * MILLION + b"\n\n", b"data: 1\n\n" * (MILLION // 9)
    begun = time.process_time()
    for raw in (long, short):
        splitter = EventSplitter()
        found = [e for at in range(0, len(raw), size) for e in splitter.feed(raw[at : at + size])]

        assert b"".join(found) == raw
    assert time.process_time() - begun < 5


@pytest.mark.timeout(60)
def test_a_long_document_in_many_pieces_is_read_once(tmp_path: Path) -> None:
    """A line of 32 MB in pieces of 1 KB; copied with every piece it would be 500 GB."""
    with UploadWriter(tmp_path, 1 << 30) as upload:
        for _ in range(32_768):
            upload.feed(b" " * 1024)
        upload.feed(b'{"text": "a b c"}')
        upload.keep()

    assert upload.count == 1


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_a_property_holds_at_length(name: str, number: int) -> None:
    """Tens of thousands of each."""
    _run(name, 20_000, number)
    print(f"\n{name}, seed {number}: 20,000 inputs")


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_million_characters_of_anything(reader: str) -> None:
    """Pieces that hypothesis finds, repeated."""
    run = settings(
        max_examples=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )(given(UNITS, TEXTS)(lambda unit, tail: _million(reader, unit, tail)))
    seed(1)(run)()
    print(f"\n{reader}: 40 texts of a million characters")
