"""What an import does with a registered target; not in the store, which is slow to import."""

from __future__ import annotations

from enum import StrEnum


class OnConflict(StrEnum):
    """What an import does with a target whose id is registered."""

    FAIL = "fail"
    REPLACE = "replace"
    SKIP = "skip"
