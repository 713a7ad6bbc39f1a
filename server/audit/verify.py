"""Is the audit whole? Follows the chain through all files that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from server.audit.chain import Link, link_of
from server.audit.files import AuditFiles


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found; `fault` is the first thing that is wrong, `head` the last good record."""

    records: int
    first: int
    head: Link
    fault: str | None


def verify(files: AuditFiles, wanted: str | None = None) -> Verification:
    """Check every hash, number and link, and that the record with hash `wanted` is there."""
    first, noted, opened = files.moment()
    last, count, seen = Link(first - 1), 0, wanted is None
    for place, line in _lines(opened):
        known = link_of(line)
        if known is None:
            return Verification(count, first, last, f"{place} is not as it was written")
        record, link = known
        if link.sequence != last.sequence + 1:
            fault = f"{place}: record {last.sequence + 1} is missing"
            return Verification(count, first, last, fault)
        # What stood before the first record that is kept was rotated away.
        if (count or first == 1) and record["prev"] != last.hash:
            return Verification(count, first, last, f"{place} does not follow the one before")
        last, count = link, count + 1
        seen = seen or link.hash == wanted
    return Verification(count, first, last, _fault_at_the_end(last, noted, seen=seen))


def _fault_at_the_end(last: Link, noted: Link, *, seen: bool) -> str | None:
    if last.sequence < noted.sequence:
        return f"records from {last.sequence + 1} to {noted.sequence} are missing at the end"
    if last.sequence == noted.sequence and last.hash != noted.hash and noted.sequence:
        return "the last record is not the one that was written last"
    return None if seen else "the record with the given hash is not there"


def _lines(opened: Sequence[BinaryIO]) -> Iterator[tuple[str, bytes]]:
    """Every whole line with its place; closes the files."""
    try:
        for file in opened:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield f"line {number} of {Path(file.name).name}", line
    finally:
        for file in opened:
            file.close()
