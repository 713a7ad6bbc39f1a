"""Registries of any size for the classifier's bench: real snapshots, mostly of random embeddings.

A million prompts would take hours to encode. The first rows are encoded questions about invented
authors; all others are random unit vectors, which cost exactly as much to compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.benign import benign_prompts
from detectors.encoder import Encoder
from detectors.registry import CEILING, FLOORS
from detectors.tables import ClassifierTables, RowKind
from guard.snapshot import write_snapshot
from server.bench.invented import QUESTIONS_PER_AUTHOR, invented_target

PROMPTS_PER_TARGET = 100
_AT_ONCE = 100_000


def write_registry(encoder: Encoder, size: int, encoded: int, snapshots: Path) -> str:
    """Write a snapshot with `size` registered prompts, the first `encoded` real; its digest."""
    tables = _tables(encoder, size, encoded)
    rules = [
        {
            "id": target_id,
            "action": "steer",
            "enforcement": "enforce",
            "scope": "matched",
            "first_item": number * PROMPTS_PER_TARGET,
        }
        for number, target_id in enumerate(tables.target_ids)
    ]
    none: list[Any] = [[] for _ in rules]
    empty: list[Any] = [[] for _ in range(size)]
    phrases = {"targets": none, "items": empty, "faint": empty, "names": none}
    return write_snapshot(
        snapshots,
        meta={"encoder": encoder.id},
        arrays={f"classifier.{name}": array for name, array in tables.arrays().items()},
        documents={"targets": rules, "phrases": phrases, "classifier": tables.meta()},
    )


def innocent_prompts(first: int, count: int) -> list[str]:
    """Innocent prompts that no other call gives: numbered, so that none is remembered."""
    benign = benign_prompts()
    return [f"{n}: {benign[n % len(benign)]}" for n in range(first, first + count)]


def _tables(encoder: Encoder, size: int, encoded: int) -> ClassifierTables:
    targets = -(-size // PROMPTS_PER_TARGET)
    document = json.loads(
        invented_target("t", max(QUESTIONS_PER_AUTHOR * targets, encoded), seed=0)
    )
    names: Sequence[str] = document["aliases"]
    prompts = [example["prompt"] for example in document["examples"][: min(size, encoded)]]
    rows = np.arange(size)
    return ClassifierTables(
        encoder_id=encoder.id,
        target_ids=tuple(f"target-{n}" for n in range(targets)),
        embeddings=_embeddings(encoder, prompts, size),
        row_target=(rows // PROMPTS_PER_TARGET).astype(np.int32),
        row_item=(rows % PROMPTS_PER_TARGET).astype(np.int32),
        row_kind=np.full(size, RowKind.PROMPT, np.int8),
        heads=np.zeros((targets, encoder.dimension), np.float32),
        thresholds=np.tile(np.array([FLOORS[k] for k in RowKind], np.float32), (targets, 1, 1)),
        described=np.full(targets, CEILING, np.float32),
        aliases=tuple((names[n], n) for n in range(targets)),
        reports={},
    )


def _embeddings(encoder: Encoder, prompts: Sequence[str], size: int) -> npt.NDArray[np.float32]:
    rows = np.empty((size, encoder.dimension), np.float32)
    rows[: len(prompts)] = encoder.encode(prompts)
    rng = np.random.default_rng(0)
    for first in range(len(prompts), size, _AT_ONCE):
        block = rows[first : first + _AT_ONCE]
        rng.standard_normal(out=block, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows
