"""The token filter against an oracle that decodes text and searches it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.patterns import index_phrases
from guard.positions import Positions
from guard.token_filter import Position, TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary
from tests.guard.folded_text import decode, spells

PIECES = (
    *"abAB -'.é日",
    *(bytes([b]) for b in "éа日\u200b".encode()),  # characters split over tokens; Cyrillic a
    b"\xff",
    *("é".encode()[1:] + rest for rest in (b"a", b" ", b" b", "é".encode()[:1])),
    "ab",
    " a",
    " b",
    "  ",
    "\n",
    "a b",
    "bab",
    "b'",
    "\u200b",
    "\u0301",
    "e",
    "日a",
    "аb",
    "Ａ",
    "ﬁ",
    "fi",
    None,
)
LIKELY = (
    "a",
    "A",
    "b",
    "é",
    "日",
    " ",
    " a",
    " b",
    "  ",
    "f",
    "\u0301",
    "é".encode()[:1],
    "é".encode()[1:] + b"a",
)
VOCABULARY = Vocabulary([p.encode() if isinstance(p, str) else p for p in PIECES])
PHRASES = st.lists(
    st.builds(
        Phrase,
        st.sampled_from(["a b", "ab", "ab a", "b'a", "éb", "日a", "fi a", "b é", "a  -b"])
        | st.text("abé日 '-fi", min_size=1, max_size=5).filter(lambda t: t.strip()),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def make_filter(phrases, vocabulary=VOCABULARY):
    patterns, ids = index_phrases(phrases)
    return TokenFilter(build_tables(patterns, vocabulary), Units.build([ids], []), vocabulary)


def raw_of(tokens, pieces=PIECES):
    parts = (pieces[t] or b"" for t in tokens)
    return b"".join(p.encode() if isinstance(p, str) else p for p in parts)


@settings(max_examples=250, deadline=None)
@given(PHRASES, st.integers(0, 2**32))
def test_forbids_exactly_the_completing_tokens(phrases, seed):
    """At every step of a random walk the forbidden tokens are those that finish a phrase."""
    rng = random.Random(seed)
    token_filter = make_filter(phrases)
    active = token_filter.sets.acquire((0,), ())
    position, tokens = Position(), []
    for _ in range(12):
        found = set(token_filter.forbidden([position], [active], [0], VOCABULARY.size).tolist())
        before = decode(raw_of(tokens))
        expected = {
            t
            for t in range(VOCABULARY.size)
            if PIECES[t] is not None
            and any(spells(p, before, decode(raw_of([*tokens, t]))) for p in phrases)
        }

        assert expected == found
        assert expected == {
            t for t in range(VOCABULARY.size) if token_filter.completes(position, active, t)
        }

        allowed = [t for t in range(VOCABULARY.size) if t not in found]
        likely = [t for t in allowed if PIECES[t] in LIKELY]
        tokens.append(rng.choice(likely if likely and rng.random() < 0.8 else allowed))
        token_filter.advance([position], tokens[-1:])


@settings(max_examples=100, deadline=None)
@given(PHRASES, st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.integers(0, 40))
def test_seed_equals_walking(phrases, tokens, cut):
    """A position rebuilt from the token history forbids what the walked one forbids."""
    token_filter = make_filter(phrases)
    active = token_filter.sets.acquire((0,), ())
    walked = Position()
    special = PIECES.index(None)
    for token in tokens:
        token_filter.advance([walked], [token])
    rebuilt = token_filter.seed([special], tokens)
    split = token_filter.seed([t for t in tokens[:cut] if t != special], tokens[cut:])

    def forbidden(position):
        return set(token_filter.forbidden([position], [active], [0], VOCABULARY.size).tolist())

    assert forbidden(walked) == forbidden(rebuilt) == forbidden(split)


@settings(max_examples=100, deadline=None)
@given(PHRASES, st.integers(0, 2**32), st.integers(1, 100))
def test_steps_of_a_batch_equal_single_positions(phrases, seed, rows):
    """A batch in packed arrays moves and forbids as each of its rows does alone."""
    rng = random.Random(seed)
    token_filter = make_filter(phrases)
    active = token_filter.sets.acquire((0,), ())
    alone, packed = [Position() for _ in range(rows)], Positions()
    slots = np.array([packed.take(position, active.index) for position in alone])
    order, width = np.array(rng.sample(range(rows), rows)), VOCABULARY.size
    logits = np.zeros((rows, width), np.float32)
    for _ in range(8):
        tokens = [rng.randrange(-1, width + 3) for _ in range(rows)]
        for position, token in zip(alone, tokens, strict=True):
            if token >= 0:
                # The last ids are padding behind the vocabulary.
                token_filter.advance([position], [token])
        logits[:] = 0
        given_tokens = np.array(tokens)
        token_filter.step(packed, slots, given_tokens.copy(), order, width, logits)
        expected = token_filter.forbidden(alone, [active] * rows, order.tolist(), width)

        assert set(np.flatnonzero(logits).tolist()) == set(expected.tolist())
        assert [packed.get(slot) for slot in slots.tolist()] == alone


def test_seed_reads_far_enough_back():
    """Bytes that only together make a dropped character do not use up what a seed reads."""
    token_filter = make_filter([Phrase("a b a b")])
    active = token_filter.sets.acquire((0,), ())
    gap = [PIECES.index(bytes([b])) for b in "\u200b".encode()]
    a, b, spaced = PIECES.index("a"), PIECES.index("b"), PIECES.index(" a")
    text = [a, *gap, PIECES.index(" b"), *gap, spaced, *gap, *gap, PIECES.index(" "), *gap]
    position = token_filter.seed([], text)

    assert b in token_filter.forbidden([position], [active], [0], VOCABULARY.size)


def test_prompt_is_read_from_its_last_special_token():
    """A user's last word does not run into the answer; a prefilled answer does."""
    token_filter = make_filter([Phrase("a b")])
    active = token_filter.sets.acquire((0,), ())
    a, b, special = PIECES.index("a"), PIECES.index(" b"), PIECES.index(None)
    asked = token_filter.seed([a, special], [])
    prefilled = token_filter.seed([special, a], [])

    assert b not in token_filter.forbidden([asked], [active], [0], VOCABULARY.size)
    assert b in token_filter.forbidden([prefilled], [active], [0], VOCABULARY.size)


def test_only_active_units_forbid():
    """A request's units are independent: items and targets switch on only their own phrases."""
    patterns, ids = index_phrases([Phrase("a"), Phrase("b")])
    units = Units.build([[ids[0]]], [[ids[1]]])
    token_filter = TokenFilter(build_tables(patterns, VOCABULARY), units, VOCABULARY)
    sets = token_filter.sets
    a, b = PIECES.index("a"), PIECES.index("b")

    def forbidden(targets, items):
        active = sets.acquire(targets, items)
        found = token_filter.forbidden([Position()], [active], [0], VOCABULARY.size).tolist()
        return a in found, b in found

    assert forbidden((), ()) == (False, False)
    assert forbidden((0,), ()) == (True, False)
    assert forbidden((), (0,)) == (False, True)
    assert forbidden((0,), (0,)) == (True, True)
    with pytest.raises(IndexError):
        sets.acquire((1,), ())
    with pytest.raises(IndexError):
        sets.acquire((), (1,))


def test_idle_sets_are_packed_away(monkeypatch):
    """When there are too many sets the idle ones go and those in use keep forbidding."""
    monkeypatch.setattr("guard.active_sets.IDLE_LIMIT", 4)
    patterns, ids = index_phrases([Phrase(c) for c in "ab"])
    units = Units.build([[ids[0]]], [[ids[1]] for _ in range(20)])
    token_filter = TokenFilter(build_tables(patterns, VOCABULARY), units, VOCABULARY)
    kept = token_filter.sets.acquire((0,), ())
    for item in range(20):
        token_filter.sets.release(token_filter.sets.acquire((), (item,)))
    found = token_filter.forbidden([Position()], [kept], [0], VOCABULARY.size).tolist()

    assert PIECES.index("a") in found
    assert PIECES.index("b") not in found
    assert token_filter.sets.bits.shape[0] <= 8


def test_flat_indices_carry_the_row():
    """Each index is row * width + token, for rows in any order."""
    token_filter = make_filter([Phrase("a")])
    active = token_filter.sets.acquire((0,), ())
    a = PIECES.index("a")
    found = token_filter.forbidden([Position(), Position()], [active, active], [5, 2], 100)

    assert {500 + a, 200 + a} <= set(found.tolist())
    assert {i // 100 for i in found.tolist()} == {5, 2}
