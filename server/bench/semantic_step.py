"""What the semantic filter adds to a decode step: the same batch with and without it, by turns."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from detectors.normaliser import fold
from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.loading import WorkerPart
from guard.patterns import patterns_of
from guard.semantic_forms import cut, romanisations
from guard.semantic_penalties import Penalties
from guard.snapshot import write_snapshot
from guard.units import Units
from guard.vocabulary import Vocabulary
from server.bench.figures import spread
from server.bench.spellings import invented_phrases
from server.bench.step_cost import Compiled, SteeredBatch, step_costs, tempting_texts
from server.bench.vocabularies import tekken
from tracing.successors import compile_successors

PHRASES = 1_000
PENALISED = 512


def semantic_step(batch: int, steps: int) -> dict[str, Any]:
    """Microseconds of a step with tokens only and with forms and penalties; flat figures.

    Raises:
        InputMissing: the tokenizer of 131,072 tokens is not installed.
    """
    torch.set_num_threads(1)
    vocabulary = Vocabulary(tekken().tokens)
    phrases = invented_phrases(PHRASES)
    texts = tempting_texts(tekken(), phrases, batch, 400, seed=1)
    rng = random.Random(2)  # noqa: S311
    penalties = {rng.randrange(1000, vocabulary.size): 2.0 for _ in range(PENALISED)}
    logits = torch.zeros(batch, vocabulary.size)
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as state:
        arms = []
        for semantic in (False, True):
            compiled = _compile(phrases, vocabulary, Path(state), penalties if semantic else None)
            arms.append(SteeredBatch(Path(state), compiled, vocabulary, texts))
        tokens, both = step_costs(arms, logits, steps)
    added = [b - a for a, b in zip(_blocks(tokens), _blocks(both), strict=True)]
    return {
        **spread("step_us_tokens", tokens),
        **spread("step_us_semantic", both),
        **spread("step_added_us", added),
        "step_batch": batch,
        "step_vocabulary": vocabulary.size,
        "step_phrases": PHRASES,
        "step_penalised_tokens": len(penalties),
    }


def _compile(
    phrases: Sequence[str],
    vocabulary: Vocabulary,
    root: Path,
    penalties: dict[int, float] | None,
) -> Compiled:
    patterns = patterns_of([Phrase(text) for text in phrases])
    if penalties is not None:
        folded = [fold(text).strip() for text in phrases]
        patterns += patterns_of([Phrase(form) for text in folded for form in romanisations(text)])
        stems = patterns_of([Phrase(stem) for text in folded if (stem := cut(text)) is not None])
        patterns += stems.also_within_words(np.ones(len(stems), np.bool_))
    distinct, _ = patterns.distinct()
    tables = build_tables(distinct, vocabulary)
    units = Units.build([list(range(len(distinct)))], [], Penalties.build([penalties or {}]))
    arrays = WorkerPart(tables, units, compile_successors([], 2, vocabulary.size)).arrays()
    meta = {"vocabulary": vocabulary.fingerprint}
    digest = write_snapshot(root, meta=meta, arrays=arrays, documents={})
    return Compiled(digest, 0.0, 0.0, len(tables.label), tables)


def _blocks(costs: Sequence[float]) -> list[float]:
    """The median of each block of steps, so that neighbouring blocks of the arms are compared."""
    size = 20
    return [median(costs[first : first + size]) for first in range(0, len(costs), size)]
