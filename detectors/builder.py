"""Builds the classifier's tables: rows, thresholds over the whole registry, calibration reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.calibration import Threshold, conformal_threshold, smallest_sample
from detectors.encoder import Encoder
from detectors.extraction import subject_names
from detectors.similarity import best_cosine_per_text
from detectors.tables import ClassifierTables, RowKind
from detectors.targets import ForgetTarget
from detectors.windows import prompt_windows

# Weak evidence forbids only what the matched items answer, so it may fire this much oftener.
WEAK_FACTOR = 2.0
WEAK_FLOOR = 0.40
STRONG_FLOOR = 0.45
# A registered prompt itself must always fire, whatever stands among the benign prompts.
CEILING = 0.97

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Texts:
    """Windows of many texts and, per window, the index of its text."""

    windows: list[str]
    owners: npt.NDArray[np.int32]

    @classmethod
    def cut(cls, texts: Sequence[str]) -> _Texts:
        windows: list[str] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            cut = prompt_windows([text])
            windows += cut
            owners += [owner] * len(cut)
        return cls(windows, np.array(owners, dtype=np.int32))


def build_tables(
    targets: Sequence[ForgetTarget], encoder: Encoder, *, alpha: float, benign: Sequence[str]
) -> ClassifierTables:
    """Tables for a registry of targets.

    `alpha` is the false-positive rate on benign prompts for targets that state none. Benign are
    `benign` and every target's retain examples; a benign prompt's score is its greatest cosine to
    any row of the whole registry, so that the rate is one of the registry and not of each target.
    It is shared equally among the kinds of rows present (union bound).
    """
    examples = [(t, i, e.prompt) for t, x in enumerate(targets) for i, e in enumerate(x.examples)]
    documents = [(t, document.text) for t, x in enumerate(targets) for document in x.documents]
    prompts = _Texts.cut([prompt for _, _, prompt in examples])
    pages = _Texts.cut([text for _, text in documents])
    retain = [text for target in targets for text in target.retain_examples]
    innocent = _Texts.cut(list(dict.fromkeys([*benign, *retain])))
    encoded = encoder.encode([*prompts.windows, *pages.windows, *innocent.windows])
    rows = len(prompts.windows) + len(pages.windows)
    row_target = [examples[o][0] for o in prompts.owners] + [documents[o][0] for o in pages.owners]
    row_item = [examples[o][1] for o in prompts.owners] + [-1] * len(pages.owners)
    kinds = [RowKind.PROMPT] * len(prompts.owners) + [RowKind.DOCUMENT] * len(pages.owners)
    calibration = _Calibration(encoded[:rows], np.array(kinds, np.int8), encoded[rows:], innocent)
    by_target = [calibration.thresholds(target.alpha or alpha) for target in targets]
    row_targets = np.array(row_target, dtype=np.int32)
    return ClassifierTables(
        encoder_id=encoder.id,
        target_ids=tuple(target.id for target in targets),
        embeddings=encoded[:rows],
        row_target=row_targets,
        row_item=np.array(row_item, dtype=np.int32),
        row_kind=calibration.kinds,
        thresholds=_threshold_array(by_target),
        aliases=tuple(pair for t, x in enumerate(targets) for pair in _aliases(x, t)),
        reports={
            target.id: _report(target, by_target[t], calibration, row_targets == t)
            for t, target in enumerate(targets)
        },
    )


class _Calibration:
    """Benign scores per kind over the whole registry, and the thresholds they give."""

    def __init__(
        self, rows: Embeddings, kinds: npt.NDArray[np.int8], benign: Embeddings, texts: _Texts
    ) -> None:
        self.rows = rows
        self.kinds = kinds
        self.present = [kind for kind in RowKind if np.any(kinds == kind)]
        self.scores = {
            kind: best_cosine_per_text(benign, texts.owners, rows[kinds == kind])
            for kind in self.present
        }
        self._cache: dict[float, dict[RowKind, tuple[Threshold, Threshold]]] = {}

    def thresholds(self, alpha: float) -> dict[RowKind, tuple[Threshold, Threshold]]:
        """Weak and strong threshold of each kind present."""
        if alpha not in self._cache:
            share = alpha / max(1, len(self.present))
            self._cache[alpha] = {kind: self._pair(kind, share) for kind in self.present}
        return self._cache[alpha]

    def _pair(self, kind: RowKind, alpha: float) -> tuple[Threshold, Threshold]:
        scores = self.scores[kind]
        strong = conformal_threshold(scores, alpha, floor=STRONG_FLOOR, ceiling=CEILING)
        loose = min(WEAK_FACTOR * alpha, 0.5)
        weak = conformal_threshold(scores, loose, floor=WEAK_FLOOR, ceiling=strong.value)
        return weak, strong


def _threshold_array(
    by_target: Sequence[dict[RowKind, tuple[Threshold, Threshold]]],
) -> npt.NDArray[np.float32]:
    # Kinds without rows can never be compared; 2 is above every cosine.
    values = np.full((len(by_target), len(RowKind), 2), 2.0, dtype=np.float32)
    for target, pairs in enumerate(by_target):
        for kind, (weak, strong) in pairs.items():
            values[target, kind] = weak.value, strong.value
    return values


def _aliases(target: ForgetTarget, index: int) -> list[tuple[str, int]]:
    names = dict.fromkeys([*target.aliases, *subject_names(target)])
    return [(name, index) for name in names]


def _report(
    target: ForgetTarget,
    pairs: dict[RowKind, tuple[Threshold, Threshold]],
    calibration: _Calibration,
    own: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """The calibration report of one target: plain JSON, numbers and fixed sentences only."""
    recall, sample = _leave_one_out(pairs, calibration, own)
    return {
        "alpha": next((strong.alpha for _, strong in pairs.values()), 0.0) * max(1, len(pairs)),
        "benign_sample": max((strong.sample for _, strong in pairs.values()), default=0),
        "retain_examples": len(target.retain_examples),
        "thresholds": {
            kind.name.lower(): {
                "rows": int(np.count_nonzero(own & (calibration.kinds == kind))),
                "weak": round(weak.value, 4),
                "strong": round(strong.value, 4),
                "alpha": strong.alpha,
                "supported": strong.supported,
            }
            for kind, (weak, strong) in pairs.items()
        },
        "supported": all(strong.supported for _, strong in pairs.values()),
        "estimated_recall": recall,
        "recall_sample": sample,
        "warnings": _warnings(pairs, calibration, recall, sample),
    }


def _leave_one_out(
    pairs: dict[RowKind, tuple[Threshold, Threshold]],
    calibration: _Calibration,
    own: npt.NDArray[np.bool_],
) -> tuple[float | None, int]:
    """Share of the target's prompts that its other prompts find by similarity, and their number.

    It stands for unseen questions about the target, which are farther away than paraphrases.
    """
    rows = calibration.rows[own & (calibration.kinds == RowKind.PROMPT)]
    if len(rows) < 2 or RowKind.PROMPT not in pairs:
        return None, len(rows)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    found = cosines.max(axis=1) >= pairs[RowKind.PROMPT][1].value
    return round(float(found.mean()), 4), len(rows)


def _warnings(
    pairs: dict[RowKind, tuple[Threshold, Threshold]],
    calibration: _Calibration,
    recall: float | None,
    sample: int,
) -> list[str]:
    warnings = []
    for kind, (_, strong) in pairs.items():
        name = kind.name.lower()
        if strong.rank == 0:
            needed = smallest_sample(strong.alpha)
            warnings.append(
                f"{name} rows: {strong.sample} benign prompts cannot support the stated rate, "
                f"{needed} are needed; a cautious threshold without a guarantee is used"
            )
        near = int(np.count_nonzero(calibration.scores[kind] > CEILING))
        if near:
            warnings.append(
                f"{name} rows: {near} benign prompts or retain examples nearly repeat registered "
                "text and will be steered"
            )
    if pairs and sample < 2:
        warnings.append("fewer than two example prompts: recall cannot be estimated")
    elif recall is not None and recall < 0.5:
        warnings.append("the target's prompts are far apart: add paraphrases or aliases")
    return warnings
