"""The classifier's data: what a policy snapshot stores of it.

A target adds its rows, its aliases and a head of its own; only the thresholds, which are calibrated
over the whole registry, can move for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.errors import TablesError

FORMAT = 3


class RowKind(IntEnum):
    """What a row embeds. Each kind has its own scale of scores and its own thresholds.

    Answers are no kind of their own: on RWKU, rows of answers found 2.6 % of the disguised
    prompts at 5 % false alarms on neighbours, where rows of prompts found 51 %, and beside them
    they only raised the threshold.
    """

    PROMPT = 0
    DOCUMENT = 1


@dataclass(frozen=True)
class ClassifierTables:
    """Rows, heads, thresholds and aliases of a set of targets.

    `thresholds` holds weak and strong, in that order; weak ones and those of documents are cosines,
    strong ones of prompts are scores (`detectors.heads`). `described` are the cosines from which on
    a prompt is faint evidence of a described subject (`detectors.descriptions`). `reports` are
    the targets' calibration reports, plain JSON without any forget text.
    """

    encoder_id: str
    target_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float32]  # [rows, dimension], unit vectors
    row_target: npt.NDArray[np.int32]  # [rows]
    row_item: npt.NDArray[np.int32]  # [rows], -1 for document windows
    row_kind: npt.NDArray[np.int8]  # [rows], RowKind
    heads: npt.NDArray[np.float32]  # [targets, dimension], zeros without prompts
    thresholds: npt.NDArray[np.float32]  # [targets, kinds, 2]
    described: npt.NDArray[np.float32]  # [targets]
    aliases: tuple[tuple[str, int], ...]  # alias, target
    reports: Mapping[str, Mapping[str, Any]]  # by target id

    def __post_init__(self) -> None:
        self._check_shapes()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays, by name."""
        return {
            "embeddings": self.embeddings,
            "row_target": self.row_target,
            "row_item": self.row_item,
            "row_kind": self.row_kind,
            "heads": self.heads,
            "thresholds": self.thresholds,
            "described": self.described,
        }

    def meta(self) -> dict[str, Any]:
        """Everything else, as JSON. It holds aliases, which are forget text."""
        return {
            "format": FORMAT,
            "encoder_id": self.encoder_id,
            "target_ids": list(self.target_ids),
            "aliases": [[alias, target] for alias, target in self.aliases],
            "reports": {key: dict(report) for key, report in self.reports.items()},
        }

    @classmethod
    def load(
        cls, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]
    ) -> ClassifierTables:
        """The tables that `arrays` and `meta` describe; arrays may be memory-mapped.

        Raises:
            TablesError: a part is missing or of another form or format.
        """
        if meta.get("format") != FORMAT:
            raise TablesError(f"classifier tables have format {meta.get('format')!r}, not {FORMAT}")
        try:
            return cls(
                encoder_id=str(meta["encoder_id"]),
                target_ids=tuple(map(str, meta["target_ids"])),
                aliases=tuple((str(alias), int(target)) for alias, target in meta["aliases"]),
                reports={str(key): dict(report) for key, report in meta["reports"].items()},
                embeddings=arrays["embeddings"],
                row_target=arrays["row_target"],
                row_item=arrays["row_item"],
                row_kind=arrays["row_kind"],
                heads=arrays["heads"],
                thresholds=arrays["thresholds"],
                described=arrays["described"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, TablesError):
                raise
            raise TablesError(f"classifier tables are malformed: {type(error).__name__}") from None

    def _check_shapes(self) -> None:
        rows, targets = len(self.embeddings), len(self.target_ids)
        per_row = (self.row_target, self.row_item, self.row_kind)
        fits = (
            self.embeddings.ndim == 2
            and all(array.shape == (rows,) for array in per_row)
            and self.heads.shape == (targets, self.embeddings.shape[1])
            and self.thresholds.shape == (targets, len(RowKind), 2)
            and self.described.shape == (targets,)
            and (not rows or 0 <= self.row_target.min() <= self.row_target.max() < targets)
            and (not rows or 0 <= self.row_kind.min() <= self.row_kind.max() < len(RowKind))
            and all(0 <= target < targets for _, target in self.aliases)
        )
        if not fits:
            raise TablesError("classifier tables have arrays that do not fit each other")
