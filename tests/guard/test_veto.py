"""The veto over a batch of slots, against the plain definition; and its table, from texts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.tokenisations import Tokenisations
from guard.veto import Veto, compile_veto, context
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors

SPECIAL, PADDING = 0, 9
VOCABULARY = Vocabulary([None, b"a", b"ab", b"c", b"abc", b"c"])
PREFIXES = VOCABULARY.prefixes()
SIZE = 7  # of the model: one token of padding
LETTERS = st.integers(1, 5)
TOKENS = st.lists(LETTERS, max_size=14)
HISTORY = st.lists(st.integers(0, 5) | st.just(PADDING), max_size=10)


def forbidden(veto, slots, tokens, in_place):
    rows = np.arange(len(slots))[::-1].copy()
    logits = np.zeros((len(slots), SIZE), np.float32)
    given = logits if in_place else np.empty((0, 0), np.float32)
    count, indices = veto.step(slots, np.array(tokens, np.int64), rows, SIZE, given)
    logits.reshape(-1)[indices] = -np.inf
    found = [set(np.flatnonzero(np.isneginf(logits[row])).tolist()) for row in rows]

    assert count >= sum(map(len, found))
    return found


@settings(deadline=None, max_examples=150)
@given(
    st.lists(TOKENS, max_size=4),
    st.integers(2, 5),
    st.lists(st.tuples(HISTORY, HISTORY, HISTORY), min_size=1, max_size=3),
    st.booleans(),
)
def test_steps_forbid_what_the_definition_does(plain_veto, documents, n, texts, in_place):
    """Slots that move on, and slots that are seeded anew at every step, agree with it."""
    table = compile_successors(documents, n, VOCABULARY.size)
    veto, other = (Veto(table, PREFIXES, VOCABULARY) for _ in range(2))
    slots = np.array([70 + 3 * i for i in range(len(texts))])
    for slot, (prompt, output, _) in zip(slots.tolist(), texts, strict=True):
        veto.seed(slot, prompt, output)
    for step in range(max(len(new) for _, _, new in texts) + 1):
        tokens = [new[step - 1] if 0 < step <= len(new) else -1 for _, _, new in texts]
        for slot, (prompt, output, new) in zip(slots.tolist(), texts, strict=True):
            other.seed(slot, prompt, [*output, *new[:step]])
        expected = [
            plain_veto(documents, n, VOCABULARY, p, [*o, *new[:step]]) for p, o, new in texts
        ]

        assert expected == forbidden(veto, slots, tokens, in_place)
        assert expected == forbidden(other, slots, [-1] * len(slots), in_place)


def test_many_at_once_without_logits():
    """More indices than there was room for are all given, and the slots move once."""
    documents = [[1, 2, t] for t in range(3, 5000)]
    vocabulary = Vocabulary([None, *(f"{i};".encode() for i in range(1, 5000))])
    table = compile_successors(documents, 3, vocabulary.size)
    veto = Veto(table, vocabulary.prefixes(), vocabulary)
    veto.seed(0, [1], [])
    where = (np.array([0]), np.array([2]), np.array([1]), vocabulary.size)
    count, indices = veto.step(*where, np.empty((0, 0), np.float32))

    assert 4997 == count == len(indices)
    assert set(indices.tolist()) == {vocabulary.size + t for t in range(3, 5000)}


def test_a_context_goes_across_special_tokens_of_the_answer_only():
    """As the token filter reads texts: what the user said does not run into the answer."""
    assert [2, 3, 4] == context(VOCABULARY, [1, SPECIAL, 2], [3, SPECIAL, 4], 5)
    assert [3, 4] == context(VOCABULARY, [1, SPECIAL, 2], [3, SPECIAL, 4], 2)
    assert [1, 2] == context(VOCABULARY, [1], [PADDING, 2], 5)
    assert [] == context(VOCABULARY, [1, SPECIAL], [], 5)


def test_other_tokens_of_the_same_bytes():
    """Per token those that begin its bytes or equal them, but no end of text."""
    found = VOCABULARY.prefixes()
    lists = [found.tokens[a:b].tolist() for a, b in pairwise(found.start.tolist())]

    assert [[], [], [1], [5], [1, 2], [3]] == lists
    assert [[], [], [], [5], [2], [3]] == [
        VOCABULARY.prefixes([1]).tokens[a:b].tolist()
        for a, b in pairwise(VOCABULARY.prefixes([1]).start.tolist())
    ]


def encode(texts):
    """Words and single spaces-before-words as tokens, made up as they come."""
    return [[1 + len(word) % 4 for word in text.split()] for text in texts]


def test_texts_become_a_table_and_reports():
    """Owners learn numbers only; the same texts give the same table, whatever was kept."""
    texts = [("one", "a bb ccc " * 6), ("two", "a bb"), ("one", "bb a ccc dddd a bb a a a")]
    tokenisations = Tokenisations(encode, 12)
    compiled = compile_veto(texts, tokenisations, VOCABULARY)
    again = compile_veto(texts, tokenisations, VOCABULARY)
    other = compile_veto(texts[:1], tokenisations, VOCABULARY)

    assert compiled.reports == {
        "one": {"minimum_match": 12, "documents": 2, "tokens": 27, "too_short": 0},
        "two": {"minimum_match": 12, "documents": 1, "tokens": 2, "too_short": 1},
    }
    assert compiled.table.arrays().keys() == again.table.arrays().keys()
    for name, array in compiled.table.arrays().items():
        np.testing.assert_array_equal(array, again.table.arrays()[name])
    assert other.table.salt != compiled.table.salt
    veto = Veto(compiled.table, PREFIXES, VOCABULARY)
    veto.seed(0, [], [2, 3, 4] * 3 + [2, 3])
    veto.seed(1, [], [3, 2, 4, 1, 2, 3, 2, 2])  # a whole text of fewer than n tokens
    veto.seed(2, [], [2])

    assert [{1, 2, 4}, {1, 2}, set()] == forbidden(veto, np.arange(3), [-1] * 3, in_place=True)


def test_owners_may_have_limits_of_their_own():
    """A longer run and a shorter one are each forbidden where their owner says, and reported."""
    text = "a bb ccc dddd a ccc bb bb dddd ccc a a bb ccc"
    tokenisations = Tokenisations(encode, 12)
    compiled = compile_veto(
        [("one", text), ("two", text)], tokenisations, VOCABULARY, limits={"two": 6}
    )
    veto = Veto(compiled.table, PREFIXES, VOCABULARY)
    ids = encode([text])[0]
    veto.seed(0, [], ids[:4])
    veto.seed(1, [], ids[:3])
    alone = Veto(
        compile_veto([("one", text)], tokenisations, VOCABULARY).table, PREFIXES, VOCABULARY
    )
    alone.seed(0, [], ids[:4])
    alone.seed(1, [], ids[:10])

    assert {"one": 12, "two": 6} == {
        owner: report["minimum_match"] for owner, report in compiled.reports.items()
    }
    assert [True, False] == [bool(f) for f in forbidden(veto, np.arange(2), [-1] * 2, True)]
    assert [False, True] == [bool(f) for f in forbidden(alone, np.arange(2), [-1] * 2, True)]


def test_without_texts_there_is_nothing_to_do():
    """An empty table is known as such, and moving a slot on is harmless."""
    table = compile_veto([], Tokenisations(encode, 8), VOCABULARY).table
    veto = Veto(table, PREFIXES, VOCABULARY)
    veto.seed(0, [1, 2], [3])
    veto.advance(0, 1)

    assert veto.is_empty
    assert [set()] == forbidden(veto, np.array([0]), [1], in_place=True)


@pytest.mark.parametrize("text", ["", " \n "])
def test_texts_of_nothing(text):
    """A text without a token registers nothing."""
    compiled = compile_veto([("one", text)], Tokenisations(encode, 8), VOCABULARY)

    assert 1 == compiled.reports["one"]["too_short"]
    assert not len(compiled.table.keys)
