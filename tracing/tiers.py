"""Which segments to write anew: size tiers bound their number, and so the cost of a search.

Each tier is eight times as large as the one below; eight segments of a tier become one. A word is
thus sorted once per tier, and an index of W words has at most seven segments per tier. A segment
with a fifth of its words withdrawn is purged.
"""

from __future__ import annotations

from collections.abc import Mapping

FACTOR = 8
FLOOR_WORDS = 1 << 12
DEAD_SHARE = 0.2


def tier(words: int) -> int:
    """The tier of a segment; 0 below `FLOOR_WORDS`."""
    found = 0
    while words >= FLOOR_WORDS:
        words //= FACTOR
        found += 1
    return found


def due_for_merge(words: Mapping[str, int], largest: int) -> list[str]:
    """Names of segments that should become one, lowest tier first; none that would be too large."""
    tiers: dict[int, list[str]] = {}
    for name, size in words.items():
        tiers.setdefault(tier(size), []).append(name)
    for _, names in sorted(tiers.items()):
        if len(names) >= FACTOR and sum(words[name] for name in names) <= largest:
            return names
    return []


def due_for_purge(words: Mapping[str, int], dead: Mapping[str, int]) -> list[str]:
    """The name of one segment of which a fifth is withdrawn, or none."""
    due = (name for name in words if dead[name] > 0 and dead[name] >= DEAD_SHARE * words[name])
    return next(([name] for name in due), [])
