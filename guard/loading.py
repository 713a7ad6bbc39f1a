"""What a policy snapshot holds for the worker, on either runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from guard.automaton import Tables
from guard.errors import SnapshotCorrupt
from guard.loaded import Pause
from guard.snapshot import load_snapshot
from guard.uld.rules import Rules, read_rules
from guard.units import Units
from guard.vocabulary import Vocabulary
from tracing.successors import SuccessorTable


@dataclass(frozen=True, slots=True)
class WorkerPart:
    """The automaton, what switches its phrases on, the veto's table, and what is subtracted."""

    tables: Tables
    units: Units
    successors: SuccessorTable
    rules: Rules = ()

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays of a snapshot that `load_part` reads."""
        parts = (("automaton", self.tables), ("units", self.units), ("veto", self.successors))
        return {
            f"{prefix}.{name}": array
            for prefix, part in parts
            for name, array in part.arrays().items()
        }


def load_part(
    snapshots: Path,
    digest: str,
    vocabulary: Vocabulary,
    end_ids: Sequence[int],
    pause: Pause | None = None,
) -> WorkerPart:
    """Read and check a snapshot's part for the worker.

    Args:
        end_ids: tokens that end a text; the veto spares them.
        pause: `load_snapshot`.

    Raises:
        SnapshotError: the snapshot is missing, damaged, or made by another version or for another
            tokenizer.
    """
    snapshot = load_snapshot(snapshots, digest, pause)
    if snapshot.meta["vocabulary"] != vocabulary.fingerprint:
        raise SnapshotCorrupt(f"snapshot {digest[:12]} was made for another tokenizer")
    try:
        return WorkerPart(
            Tables.load(snapshot.arrays("automaton")),
            Units.load(snapshot.arrays("units")),
            SuccessorTable.load(snapshot.arrays("veto")).without(end_ids),
            read_rules(snapshot.document("uld")) if snapshot.has("uld") else (),
        )
    except KeyError:
        raise SnapshotCorrupt(f"snapshot {digest[:12]} is not complete") from None
