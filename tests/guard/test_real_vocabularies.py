"""Nothing is emitted and nothing else is blocked, on vocabularies that models really use."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.normaliser import fold
from detectors.targets import Phrase
from guard.positions import Positions
from guard.vocabulary import Vocabulary, bodies_of, body_of
from server.bench.spellings import Segmenter, invented_phrases, random_spelling, spellings
from server.bench.token_paths import TextOracle, make_filter, sample_paths
from server.bench.vocabularies import byte_fallback, byte_level, tekken

PHRASES = (*invented_phrases(60), "José Ñandú", "日本語の本", "Зощенко", "Ilse Moreau", "C++")
_KINDS = (tekken, byte_fallback, byte_level)


class Fixture:
    """One vocabulary with a filter over PHRASES."""

    def __init__(self, real):
        self.real = real
        self.vocabulary = Vocabulary(real.tokens)
        self.filter = make_filter(self.vocabulary, [Phrase(text) for text in PHRASES])
        self.active = self.filter.sets.acquire((0,), ())
        self.oracle = TextOracle([Phrase(text) for text in PHRASES])
        self.segmenter = Segmenter(real.tokens)

    def raw(self, tokens):
        return b"".join(self.real.tokens[t] or b"" for t in tokens)


@pytest.fixture(
    scope="module", params=[tekken, byte_fallback, byte_level], ids=lambda f: f.__name__
)
def case(request):
    return Fixture(request.param())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_forbids_exactly_what_completes_a_phrase(case, seed):
    """After any beginning of a phrase's spelling, exactly the tokens whose text would finish one.

    All tokens that were not forbidden keep the bits of their logits.
    """
    rng = random.Random(seed)
    tokens = case.segmenter.segment(random_spelling(rng.choice(PHRASES), rng).encode(), rng)
    tokens = tokens[: rng.randrange(len(tokens))]
    while case.oracle.finds(case.raw(tokens)):
        tokens.pop()
    position = case.filter.seed([], tokens)
    logits = torch.randn(1, case.vocabulary.size)
    before = logits.clone()
    positions = Positions()
    slots = np.array([positions.take(position, case.active.index)])
    case.filter.step(
        positions, slots, np.array([-1]), np.array([0]), case.vocabulary.size, logits.numpy()
    )
    found = set(np.flatnonzero(logits[0].isneginf().numpy()).tolist())
    sample = {*found, *rng.sample(range(case.vocabulary.size), 200)}
    sample |= {case.segmenter.segment(text.encode(), rng)[0] for text in PHRASES}
    expected = {
        t for t in sample if case.real.tokens[t] and case.oracle.finds(case.raw([*tokens, t]))
    }

    assert expected == found & sample
    changed = np.flatnonzero((logits != before)[0].numpy()).tolist()
    assert set(changed) == found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_spelling_is_stopped(case, seed):
    """Some token of every segmentation of every declared spelling is forbidden where it stands."""
    rng = random.Random(seed)
    phrase = rng.choice(PHRASES)
    bold = " ".join(f"**{word}**" for word in phrase.split())
    for text in (*spellings(phrase), f"_{phrase}_", bold, f"{phrase[0]}**{phrase[1:]}**"):
        tokens = case.segmenter.segment(text.encode(), rng)
        position = case.filter.seed([], [])
        stopped = False
        for token in tokens:
            stopped = stopped or case.filter.completes(position, case.active, token)
            case.filter.advance([position], [token])

        assert stopped or fold(phrase) not in fold(text)


def test_sampled_paths_emit_nothing(case):
    """A model that wants to say the phrases cannot, though it would without the filter."""
    found = sample_paths(case.real, PHRASES, 2048, seed=3, advance=lambda _: None)

    assert found.emissions == 0
    assert found.unhindered > 1500


def test_many_bodies_equal_single_ones(case):
    """The vectorised reading of a vocabulary is that of each token."""
    raw = [one or b"" for one in case.real.tokens]
    chosen = random.Random(0).sample(range(len(raw)), 500)
    found, pending = bodies_of([raw[i] for i in chosen])

    for place, token in enumerate(chosen):
        body = body_of(raw[token])
        low, high = found.start[place], found.start[place + 1]
        assert body.stream == found.bytes[low:high].tobytes()
        assert (body.first, body.last) == (found.first[place], found.last[place])
        assert body.pending == pending[place]
