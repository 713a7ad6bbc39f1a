"""Split-conformal thresholds: a stated false-positive rate with its finite-sample guarantee.

Given n benign scores that are exchangeable with a future benign score, the k-th smallest with
k = ceil((n + 1)(1 - alpha)) is exceeded by the future score with probability at most alpha
(Vovk et al., "Algorithmic Learning in a Random World", 2005; Papadopoulos et al., 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Added to the largest benign score when there are too few for alpha: no guarantee, but cautious.
UNSUPPORTED_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Threshold:
    """A calibrated threshold: fire when `score >= value`.

    `supported` says that the guarantee holds: enough benign scores, and `value` was not lowered
    to the ceiling. `rank` is k, counted from 1; 0 where no rank exists.
    """

    value: float
    alpha: float
    sample: int
    rank: int
    supported: bool


def smallest_sample(alpha: float) -> int:
    """How many benign scores a guarantee at `alpha` needs at least."""
    return math.ceil(1 / alpha - 1e-9) - 1


def conformal_threshold(
    scores: npt.NDArray[np.float32], alpha: float, *, floor: float, ceiling: float
) -> Threshold:
    """Threshold for a false-positive rate of at most `alpha` on benign scores [n].

    The value lies in `floor .. ceiling`. Raising it to the floor keeps the guarantee; lowering it
    to the ceiling (where even a verbatim forget prompt must fire) gives it up, and says so.

    Raises:
        ValueError: alpha does not lie between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    sample = len(scores)
    # Not ceil((n + 1)(1 - alpha)) literally: that is one too high where 1 - alpha rounds up.
    above = math.floor((sample + 1) * alpha + 1e-9)
    if above < 1:
        worst = float(np.max(scores)) if sample else floor
        value = min(max(worst + UNSUPPORTED_MARGIN, floor), ceiling)
        return Threshold(value, alpha, sample, 0, supported=False)
    rank = sample + 1 - above
    ordered = np.sort(scores.astype(np.float32))
    # The guarantee is about exceeding the k-th score, firing is "at least": take the next float.
    value = float(np.nextafter(ordered[rank - 1], np.float32(np.inf)))
    lowered = value > ceiling
    return Threshold(min(max(value, floor), ceiling), alpha, sample, rank, supported=not lowered)
