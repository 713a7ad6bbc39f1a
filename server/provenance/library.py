"""The indexes of all corpora, as the control process writes them.

One process owns them; the admin API's threads read the same views. An index that cannot be read is
left alone: gateways that have it open go on with it, and its corpus is reported as damaged.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection

from guard.background import word_view
from server.log import fault_fields, get_logger
from server.provenance.registry import Places
from tracing.errors import TracingError
from tracing.index import Index, View

# Sorting takes 30 bytes of memory per word of the largest segment.
_SEGMENT_WORDS = 1 << 24

log = get_logger("corpora")


class Library:
    """Open indexes by their directory's name."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._open: dict[str, Index] = {}
        self._lock = threading.Lock()

    def index(self, directory: str, minimum: int, *, keep_text: bool = True) -> Index:
        """An index, opened or created; its gate serves matches of `minimum` words.

        Raises:
            TracingError: it cannot be read.
        """
        with self._lock:
            if directory not in self._open:
                self._open[directory] = Index(
                    self._places.index(directory),
                    word_view(),
                    depth=minimum,
                    keep_text=keep_text,
                    segment_words=_SEGMENT_WORDS,
                )
            return self._open[directory]

    def view(self, directory: str) -> View | None:
        """The present state of an index; None while it is not open."""
        index = self._open.get(directory)
        return None if index is None else index.view

    def had(self, directory: str, number: int) -> bool:
        """Whether an index has or ever had a document of this number."""
        index = self._open.get(directory)
        return index is not None and number < index.next_id

    def maintain(self) -> bool:
        """Merge what is due in one index; whether anything was done."""
        for directory, index in list(self._open.items()):
            try:
                if index.maintain():
                    return True
            except (TracingError, OSError) as error:
                # Searching goes on with the segments that there are.
                log.error("index_not_merged", directory=directory, **fault_fields(error))
        return False

    def forget(self, directory: str) -> None:
        """Close an index: when next used, it is read and compared with its checksums."""
        with self._lock:
            index = self._open.pop(directory, None)
            if index is not None:
                index.close()

    def drop(self, directory: str) -> None:
        """Delete an index from disk."""
        with self._lock:
            index = self._open.pop(directory, None)
            if index is not None:
                index.close()
            shutil.rmtree(self._places.index(directory), ignore_errors=True)

    def drop_all_but(self, directories: Collection[str]) -> None:
        """Delete the operator's indexes that nothing names, which a dead process left behind."""
        root = self._places.root / "index"
        for path in root.iterdir() if root.is_dir() else ():
            if path.name not in directories and not path.name.startswith("@"):
                self.drop(path.name)

    def close(self) -> None:
        """Let another process write."""
        with self._lock:
            for index in self._open.values():
                index.close()
            self._open.clear()
