"""What the veto adds to a decode step of the worker: the same batch with and without a table."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.loading import WorkerPart
from guard.patterns import index_phrases
from guard.snapshot import write_snapshot
from guard.units import Units
from guard.vocabulary import Vocabulary
from server.bench.figures import spread
from server.bench.step_cost import Compiled, SteeredBatch, step_costs
from tracing.sorting import Array
from tracing.successors import SuccessorTable, compile_successors

_LENGTH = 400
_EVERY = 10


def veto_step(
    table: SuccessorTable, documents: Sequence[Array], batch: int, steps: int
) -> dict[str, Any]:
    """Microseconds of the worker's whole step, by turns without a table and with this one.

    A tenth of the rows recite a document; the others are random tokens. One phrase is active.
    """
    torch.set_num_threads(1)
    vocabulary = Vocabulary([f"{i};".encode() for i in range(table.num_tokens)])
    texts = _texts(documents, batch, table.num_tokens)
    logits = torch.zeros(batch, table.num_tokens)
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as state:
        arms = [
            SteeredBatch(Path(state), _compile(Path(state), one, vocabulary), vocabulary, texts)
            for one in (compile_successors([], 2, table.num_tokens), table)
        ]
        without, both = step_costs(arms, logits, steps)
    return {**spread("worker_step_us_without_veto", without), **spread("worker_step_us", both)}


def _texts(documents: Sequence[Array], batch: int, num_tokens: int) -> list[list[int]]:
    chosen = np.random.default_rng(5)
    long = [document for document in documents if len(document) >= _LENGTH]
    texts = [chosen.integers(0, num_tokens, _LENGTH).tolist() for _ in range(batch)]
    for row in range(0, batch if long else 0, _EVERY):
        texts[row] = long[int(chosen.integers(len(long)))][:_LENGTH].tolist()
    return texts


def _compile(root: Path, table: SuccessorTable, vocabulary: Vocabulary) -> Compiled:
    patterns, ids = index_phrases([Phrase("0;")])
    tables = build_tables(patterns, vocabulary)
    part = WorkerPart(tables, Units.build([ids], []), table)
    meta = {"vocabulary": vocabulary.fingerprint}
    digest = write_snapshot(root, meta=meta, arrays=part.arrays(), documents={})
    return Compiled(digest, 0.0, 0.0, len(tables.label), tables)
