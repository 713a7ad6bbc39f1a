"""A node's sum: what all gateways counted here since the state directory was made.

What a gateway that has ended counted is added to a file, with its name, before its own is deleted:
where this process dies in between, the name tells that its numbers are in the sum already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from server.log import get_logger
from server.statistics.files import Source, content_of, sources, tallied_of
from server.statistics.tally import Tallied

_ENDED = "ended.json"

log = get_logger("statistics")


class Gathered:
    """Adds up the files of a directory. For one thread of one process."""

    def __init__(self, directory: Path) -> None:
        """Nothing is read yet."""
        self._directory, self._file = directory, directory / _ENDED
        # Of gateways that have ended, and the names of those whose files may still be there.
        self._ended: Tallied | None = None
        self._names: set[str] = set()
        self._running: dict[str, tuple[tuple[int, int], Tallied]] = {}

    def sum(self, standing: Collection[str] | None = None) -> Tallied:
        """The numbers of all gateways, each counted once; of these targets, or of all.

        Others are withdrawn: what takes their ids later is not to begin with their numbers. A file
        that the machine did not write to its end counts for what was read of it before.

        Raises:
            OSError: a file cannot be read or written.
        """
        ended, running = self._limited_ended(standing), {}
        for source in sources(self._directory):
            if not source.has_ended:
                self._names.discard(source.name)
                running[source.name] = self._read(source)
                continue
            if source.name not in self._names:
                more = _copied(ended)
                more.add(_limited(self._last_of(source), standing))
                self._write(more, self._names | {source.name})
                ended = more
            source.delete()
            self._names.discard(source.name)
        self._running = running
        total = _copied(ended)
        for _, tallied in running.values():
            total.add(_limited(tallied, standing))
        return total

    def discard(self) -> None:
        """Forget what gateways that have ended counted here.

        Raises:
            OSError: a file cannot be deleted.
        """
        self._file.unlink(missing_ok=True)
        self._ended, self._names = None, set()
        for source in sources(self._directory):
            if source.has_ended:
                source.delete()

    def _limited_ended(self, standing: Collection[str] | None) -> Tallied:
        if self._ended is None:
            self._ended, self._names = self._read_ended()
        limited = _limited(self._ended, standing)
        if limited.targets.keys() != self._ended.targets.keys():
            self._write(limited, self._names)
        return limited

    def _read_ended(self) -> tuple[Tallied, set[str]]:
        try:
            content = json.loads(self._file.read_bytes())
            return tallied_of(content), set(content["names"])
        except FileNotFoundError:
            pass
        except (KeyError, TypeError, ValueError):
            log.error("statistics_lost", source=self._file.name)
        return Tallied(), set()

    def _read(self, source: Source) -> tuple[tuple[int, int], Tallied]:
        """Of a gateway that runs; one that cannot be read now is read again the next time."""
        mark, known = source.changed(), self._running.get(source.name)
        if known is not None and known[0] == mark:
            return known
        try:
            return mark, source.read()
        except ValueError:
            return (0, 0), known[1] if known is not None else Tallied()

    def _last_of(self, source: Source) -> Tallied:
        """Of a gateway that has ended."""
        try:
            return source.read()
        except ValueError:
            log.error("statistics_lost", source=source.name)
            known = self._running.get(source.name)
            return known[1] if known is not None else Tallied()

    def _write(self, ended: Tallied, names: set[str]) -> None:
        draft = self._file.with_suffix(".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            content = content_of(ended) | {"names": sorted(names)}
            json.dump(content, file, separators=(",", ":"))
            file.flush()
            # What it holds is deleted next.
            os.fsync(file.fileno())
        draft.rename(self._file)
        self._ended, self._names = ended, set(names)


def _limited(tallied: Tallied, standing: Collection[str] | None) -> Tallied:
    if standing is None:
        return tallied
    kept = {t: counts for t, counts in tallied.targets.items() if t in standing}
    return replace(tallied, targets=kept)


def _copied(tallied: Tallied) -> Tallied:
    targets = {target: replace(counts) for target, counts in tallied.targets.items()}
    return Tallied(replace(tallied.requests), targets)
