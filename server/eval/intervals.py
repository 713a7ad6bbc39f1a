"""Shares with their counts and 95 % intervals, as flat figures."""

from __future__ import annotations

import math
from collections.abc import Iterable

# 97.5 % quantile of the standard normal distribution.
_Z = 1.959963984540054


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); (0, 1) where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    half /= 1 + z2 / count
    return max(0.0, middle - half), min(1.0, middle + half)


def share(key: str, outcomes: Iterable[bool]) -> dict[str, float | int]:
    """`key`, `key_hits`, `key_count`, `key_low` and `key_high` of some outcomes."""
    listed = list(outcomes)
    hits, count = sum(listed), len(listed)
    low, high = wilson(hits, count)
    return {
        key: round(hits / count, 4) if count else 0.0,
        f"{key}_hits": hits,
        f"{key}_count": count,
        f"{key}_low": round(low, 4),
        f"{key}_high": round(high, 4),
    }
