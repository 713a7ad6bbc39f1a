"""Builds the classifier's tables: rows, thresholds over the whole registry, calibration reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from detectors.windows import passages, prompt_windows

# Weak evidence forbids only what the matched items answer, so it may fire this much oftener.
WEAK_FACTOR = 2.0
# Weak and strong thresholds never lie below these: a small registry would otherwise spend its whole
# false-positive rate on questions of the same form about other people. Measured on TOFU with 1, 2,
# 5 and 20 authors registered: 0.72 loses no paraphrase (the farthest is at 0.73).
FLOORS = {RowKind.PROMPT: (0.70, 0.72), RowKind.DOCUMENT: (0.50, 0.55)}
# A registered prompt itself must always fire, whatever stands among the benign prompts.
CEILING = 0.97

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Texts:
    """Windows of many texts and, per window, the index of its text."""

    windows: list[str]
    owners: npt.NDArray[np.int32]

    @classmethod
    def cut(cls, texts: Sequence[str], cutter: Callable[[str], list[str]]) -> _Texts:
        windows: list[str] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            cut = cutter(text)
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
    rows = _rows(targets)
    retain = [text for target in targets for text in target.retain_examples]
    innocent = _Texts.cut([*dict.fromkeys([*benign, *retain])], lambda text: prompt_windows([text]))
    encoded = encoder.encode([*rows.windows, *innocent.windows])
    embeddings, of_innocent = np.split(encoded, [len(rows.windows)])
    calibration = _Calibration(embeddings, rows.kind, of_innocent, innocent)
    by_target = [calibration.thresholds(target.alpha or alpha) for target in targets]
    return ClassifierTables(
        encoder_id=encoder.id,
        target_ids=tuple(target.id for target in targets),
        embeddings=embeddings,
        row_target=rows.target,
        row_item=rows.item,
        row_kind=rows.kind,
        thresholds=_threshold_array(by_target),
        aliases=tuple(pair for t, x in enumerate(targets) for pair in _aliases(x, t)),
        reports={
            target.id: _report(target, by_target[t], calibration, rows.target == t)
            for t, target in enumerate(targets)
        },
    )


@dataclass(frozen=True)
class _Rows:
    """What is registered of all targets, before encoding."""

    windows: list[str]
    target: npt.NDArray[np.int32]  # [rows]
    item: npt.NDArray[np.int32]  # [rows]
    kind: npt.NDArray[np.int8]  # [rows]


def _rows(targets: Sequence[ForgetTarget]) -> _Rows:
    sources = [
        (t, i, RowKind.PROMPT, example.prompt)
        for t, target in enumerate(targets)
        for i, example in enumerate(target.examples)
    ] + [
        (t, -1, RowKind.DOCUMENT, document.text)
        for t, target in enumerate(targets)
        for document in target.documents
    ]
    cut = _Texts.cut([text for *_, text in sources], passages)
    target, item, kind = ([source[column] for source in sources] for column in range(3))
    return _Rows(
        cut.windows,
        np.array(target, dtype=np.int32)[cut.owners],
        np.array(item, dtype=np.int32)[cut.owners],
        np.array(kind, dtype=np.int8)[cut.owners],
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
        weak_floor, strong_floor = FLOORS[kind]
        strong = conformal_threshold(scores, alpha, floor=strong_floor, ceiling=CEILING)
        loose = min(WEAK_FACTOR * alpha, 0.5)
        weak = conformal_threshold(scores, loose, floor=weak_floor, ceiling=strong.value)
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
