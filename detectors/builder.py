"""Builds the classifier's tables: rows, thresholds over the whole registry, calibration reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.calibration_report import NamedPrompts, calibration_report
from detectors.descriptions import describes
from detectors.encoder import Encoder
from detectors.extraction import subject_names
from detectors.other_names import other_names
from detectors.registry import RegistryCalibration, Rows, Thresholds
from detectors.tables import ClassifierTables, RowKind
from detectors.targets import ForgetTarget
from detectors.windows import passages, prompt_windows


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
    `benign` and every target's retain examples; a benign prompt's score is its greatest one by any
    row of the whole registry (`detectors.registry`), so that the rate is one of the registry and
    not of each target. It is shared equally among the kinds of rows present (union bound).
    """
    rows = _rows(targets)
    retain = [text for target in targets for text in target.retain_examples]
    harmless = [*dict.fromkeys([*benign, *retain])]
    innocent = _Texts.cut(harmless, lambda text: prompt_windows([text]))
    encoded = encoder.encode([*rows.windows, *innocent.windows])
    embeddings, of_innocent = np.split(encoded, [len(rows.windows)])
    registered = Rows(embeddings, rows.target, rows.kind, len(targets))
    described = np.array([describes(text) for text in harmless], dtype=np.bool_)
    calibration = RegistryCalibration(registered, of_innocent, innocent.owners, described)
    rates = [target.alpha or alpha for target in targets]
    by_target = [calibration.thresholds(rate) for rate in rates]
    aliases = tuple(pair for t, x in enumerate(targets) for pair in _aliases(x, t))
    names = NamedPrompts(aliases, harmless)
    return ClassifierTables(
        encoder_id=encoder.id,
        target_ids=tuple(target.id for target in targets),
        embeddings=embeddings,
        row_target=rows.target,
        row_item=rows.item,
        row_kind=rows.kind,
        heads=calibration.heads,
        thresholds=_threshold_array(by_target),
        described=np.array([calibration.described(r).value for r in rates], np.float32),
        aliases=aliases,
        reports={
            target.id: calibration_report(
                target, t, by_target[t], calibration, names.counts(target, t)
            )
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


def _threshold_array(
    by_target: Sequence[Thresholds],
) -> npt.NDArray[np.float32]:
    # Kinds without rows can never be compared; 2 is above every cosine.
    values = np.full((len(by_target), len(RowKind), 2), 2.0, dtype=np.float32)
    for target, pairs in enumerate(by_target):
        for kind, (weak, strong) in pairs.items():
            values[target, kind] = weak.value, strong.value
    return values


def _aliases(target: ForgetTarget, index: int) -> list[tuple[str, int]]:
    stated = [*target.aliases, *subject_names(target)]
    names = dict.fromkeys([*stated, *other_names(target, stated)])
    return [(name, index) for name in names]
