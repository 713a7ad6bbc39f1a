"""Compiling a step's loops before a step waits for it."""

from __future__ import annotations

import numpy as np
import torch

from detectors.targets import Phrase
from guard import step_kernels
from guard.automaton import build_tables
from guard.patterns import index_phrases
from guard.positions import Positions
from guard.semantic_penalties import Penalties
from guard.semantic_step import penalise
from guard.token_filter import NO_LOGITS, TokenFilter
from guard.uld.subtract_kernels import take_off
from guard.units import Units
from guard.veto import Veto
from guard.vocabulary import Vocabulary
from tracing.successors import compile_successors


def warm_up() -> None:
    """Compile the loops of a step, or read them from the cache, before a step waits for it."""
    vocabulary = Vocabulary([b"a", b"\xc3", b"\xa4"])
    tables = build_tables(index_phrases([Phrase("a")])[0], vocabulary)
    units = Units.build([[0]], [], Penalties.build([{0: 1.0}]))
    token_filter = TokenFilter(tables, units, vocabulary)
    token_filter.prepare()
    # Tokens have two types, by the size of the vocabulary.
    prefixes = vocabulary.prefixes()
    vetoes = [
        Veto(compile_successors([[0, 1, 2]], 3, size), prefixes, vocabulary)
        for size in (3, 1 << 17)
    ]
    active = token_filter.sets.acquire((0,), ())
    positions = Positions()
    slots = np.array([positions.take(token_filter.seed([0], [1]), active.index)], np.int64)
    first, one = np.zeros(1, np.int64), np.zeros(1, np.float32)
    take_off(np.zeros((1, 3), np.float32), first, one, np.zeros((1, 3), np.float32), first, one)
    for logits in (np.zeros((1, 3), np.float32), NO_LOGITS):
        token_filter.step(positions, slots, np.array([0]), np.array([0]), 3, logits)
        penalise(token_filter.sets, positions, slots, np.array([0]), torch.zeros(1, 3), logits)
        for veto in vetoes:
            veto.step(slots, np.array([0]), np.array([0]), 3, logits)
        step_kernels.nothing_left(logits, np.zeros(len(logits), np.int64), np.zeros(1, np.bool_))
