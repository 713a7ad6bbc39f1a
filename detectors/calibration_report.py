"""The calibration report of a target: what was calibrated, on how much, and what it cannot claim.

Plain JSON: numbers and fixed sentences, never a text of the target or of a benign prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from detectors.alias import AliasMatcher
from detectors.calibration import smallest_sample
from detectors.heads import HEAD_WEIGHT
from detectors.registry import CEILING, FLOORS, PROMPT_FLOOR, RegistryCalibration, Thresholds
from detectors.similarity import Embeddings
from detectors.tables import RowKind
from detectors.targets import ForgetTarget

# Of a target with more prompts the share that names it is estimated on this many.
NAMED_SAMPLE = 500
# Recall is estimated on this many prompts.
RECALL_SAMPLE = 1000


class NamedPrompts:
    """What aliases find among harmless prompts: no rate is calibrated for them, so it is shown."""

    def __init__(self, aliases: Sequence[tuple[str, int]], harmless: Sequence[str]) -> None:
        self._matcher = AliasMatcher(aliases)
        self._harmless = Counter(t for text in harmless for t in self._matcher.targets([text]))

    def counts(self, target: ForgetTarget, index: int) -> dict[str, Any]:
        """How many harmless prompts name the target, and which share of its own prompts does."""
        step = -(-len(target.examples) // NAMED_SAMPLE) or 1
        prompts = [example.prompt for example in target.examples[::step]]
        named = sum(index in self._matcher.targets([prompt]) for prompt in prompts)
        return {
            "benign_named": self._harmless[index],
            "named_share": round(named / len(prompts), 4) if prompts else None,
        }


def calibration_report(
    target: ForgetTarget,
    index: int,
    pairs: Thresholds,
    calibration: RegistryCalibration,
    named: dict[str, Any],
) -> dict[str, Any]:
    """The report of one target, the registry's `index`-th.

    `named` is `NamedPrompts.counts` of it. Thresholds are cosines; of prompt rows, `strong` is the
    cosine plus a share of the target's head (`detectors.heads`), from a cosine of `floor` on.
    `alpha` is the stated rate over the whole registry, and `benign_sample` how many benign prompts
    and retain examples (of all targets) support it. `estimated_recall` is by similarity alone, over
    `recall_sample` prompts; prompts that name the target (`named_share`) are found without it.
    """
    prompts = calibration.prompts_of(index)
    recall, sample = _leave_one_out(pairs, calibration, prompts)
    kinds = calibration.rows.kind[calibration.rows.of(index)]
    return {
        "alpha": next((strong.alpha for _, strong in pairs.values()), 0.0) * max(1, len(pairs)),
        "benign_sample": max((strong.sample for _, strong in pairs.values()), default=0),
        "retain_examples": len(target.retain_examples),
        "thresholds": {
            kind.name.lower(): {
                "rows": int(np.count_nonzero(kinds == kind)),
                "weak": round(weak.value, 4),
                "strong": round(strong.value, 4),
                "floor": FLOORS[kind][1],
                "alpha": strong.alpha,
                "supported": strong.supported,
            }
            for kind, (weak, strong) in pairs.items()
        },
        "supported": all(strong.supported for _, strong in pairs.values()),
        "estimated_recall": recall,
        "recall_sample": sample,
        **named,
        "warnings": [
            *_warnings(pairs, calibration, recall, sample),
            *_name_warnings(named["benign_named"]),
        ],
    }


def _leave_one_out(
    pairs: Thresholds, calibration: RegistryCalibration, prompts: Embeddings
) -> tuple[float | None, int]:
    """Share of the target's prompts that its other prompts find by similarity, and their number.

    It stands for unseen questions about the target, which are farther away than paraphrases. Of
    many prompts every n-th is taken.
    """
    rows = prompts[:: -(-len(prompts) // RECALL_SAMPLE) or 1]
    if len(rows) < 2 or RowKind.PROMPT not in pairs:
        return None, len(rows)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1.0)
    nearest = cosines.max(axis=1)
    scores = nearest + HEAD_WEIGHT * calibration.gram.unseen_own(rows)
    strong = (nearest >= PROMPT_FLOOR) & (scores >= pairs[RowKind.PROMPT][1].value)
    found = strong | (nearest >= CEILING)
    return round(float(found.mean()), 4), len(rows)


def _name_warnings(benign_named: int) -> list[str]:
    if not benign_named:
        return []
    return [f"{benign_named} benign prompts or retain examples name the target and will be steered"]


def _warnings(
    pairs: Thresholds,
    calibration: RegistryCalibration,
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
