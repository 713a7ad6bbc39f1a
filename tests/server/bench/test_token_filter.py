"""The parts of the token-filter bench: phrases, spellings, segmentations, oracle and step cost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from detectors.normaliser import fold
from detectors.targets import Phrase
from guard.vocabulary import Vocabulary
from server.bench.hot_change import hot_change, unloaded_request
from server.bench.spellings import Segmenter, invented_phrases, spellings
from server.bench.step_cost import (
    SteeredBatch,
    compile_phrases,
    floor_bytes,
    step_costs,
    tempting_texts,
)
from server.bench.token_paths import TextOracle
from server.bench.vocabularies import byte_fallback, byte_level, tekken

KINDS = (tekken, byte_fallback, byte_level)


def test_phrases_are_distinct_and_the_same_again() -> None:
    """Any number of phrases can be had; the first of them are always the same."""
    phrases = invented_phrases(500)

    assert len(set(phrases)) == 500
    assert invented_phrases(100) == phrases[:100]


def test_spellings_fold_alike() -> None:
    """Every spelling is one of the declared set."""
    for phrase in invented_phrases(50):
        found = spellings(phrase)

        assert len(found) > 8
        assert {fold(text).strip() for text in found} == {fold(phrase).strip()}


@pytest.mark.parametrize("kind", KINDS)
def test_segmentations_spell_the_text(kind) -> None:
    """However a text is cut, its tokens' bytes are the text; the tokenizer's own agree."""
    real = kind()
    segmenter, rng = Segmenter(real.tokens), random.Random(0)
    for text in ("Ilse Moreau's Łódź", "日本 \u200b🦊", "a\n\tb"):
        for tokens in (segmenter.segment(text.encode(), rng), real.encode(text)):
            raw = b"".join(real.tokens[t] or b"" for t in tokens)

            assert raw.decode().removeprefix(" ") == text


def test_oracle_knows_borders_and_spellings() -> None:
    """It finds whole words in any spelling."""
    oracle = TextOracle([Phrase("Ilse Moreau"), Phrase("art", whole_word=False)])

    assert oracle.finds("so ILSE\n m\u043ereau.".encode())
    assert oracle.finds(b"party")
    assert not oracle.finds(b"Ilse Moreaux")


def test_steps_and_changes_are_measured(tmp_path: Path) -> None:
    """Batches take turns, texts begin again, and a change of policy is timed."""
    real = byte_level()
    vocabulary = Vocabulary(real.tokens)
    phrases = invented_phrases(60)
    sizes = (20, 40, 60)
    policies = [compile_phrases(phrases[:n], vocabulary, tmp_path) for n in sizes]
    texts = tempting_texts(real, phrases, rows=32, length=60, seed=0)
    batches = [SteeredBatch(tmp_path, policy, vocabulary, texts) for policy in policies[:1]]
    logits = torch.zeros(32, vocabulary.size)
    (costs,) = step_costs(batches, logits, 40)

    assert len(costs) == 40
    assert min(costs) > 0
    assert batches[0].forbidden > 0
    assert floor_bytes(policies[0].tables, vocabulary, texts, 1.0) > 32 * 50

    def new_batch() -> SteeredBatch:
        return SteeredBatch(tmp_path, policies[0], vocabulary, texts)

    found = hot_change(new_batch, logits, policies[1].digest, "40", changes=2)
    found |= unloaded_request(new_batch, logits, policies[2].digest, changes=2)

    # Whether a step fell into the loading, and how long it took, is the machine's affair.
    assert found["change_longest_step_ms_40_max"] >= found["change_longest_step_ms_40"] >= 0
    assert found["quiet_longest_step_ms_40"] > 0
    assert found["change_load_ms_40"] > 0
    assert all(value < 60_000 for value in found.values()), found
