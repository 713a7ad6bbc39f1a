"""What the worker has to tell the gateway, in a memory-mapped file of 64-bit numbers.

The worker has no HTTP server and no place in the answer's stream, so it writes facts where the
gateway can read them: counters for the metrics, for each request whose slot it had to close the
request's nonce with the reason, and in how many steps it kept a request from completing a phrase
(the V1 runner only). Both processes are on one machine; a write is one aligned store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import numpy as np

RING = 8192


class Counter(IntEnum):
    """Counters of one worker, as positions in its file."""

    FORBIDDEN_TOKENS = 0  # logits set to minus infinity
    INTERCEPTED_STEPS = 1  # steps in which a begun phrase was one token from completion
    STEERED_STEPS = 2  # rows x steps
    VETOED_TOKENS = 3  # logits set to minus infinity because they would have completed an n-gram
    SNAPSHOT_FAILURES = 4
    SUBTRACTED_STEPS = 5  # rows x steps from which an assistant was subtracted


class CloseReason(IntEnum):
    """Why a slot was closed: end of text was forced from then on."""

    NOTHING_LEFT = 1
    SNAPSHOT_UNAVAILABLE = 2
    BAD_PARAMETERS = 3
    INTERNAL_ERROR = 4
    ASSISTANT_UNAVAILABLE = 5


_CLOSED = len(Counter)  # then one counter per reason
_HEADER = 16
_PREVENTED = _HEADER + 2 * RING
_WORDS = _PREVENTED + 2 * RING


class LedgerWriter:
    """The worker's side. Threads may share it if each has counters and reasons of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{os.getpid()}-{os.urandom(6).hex()}.ledger"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        # Written through a mapping, a hole in a file on a full disk would kill the worker.
        os.posix_fallocate(descriptor, 0, _WORDS * 8)
        os.close(descriptor)
        # A plain array over the mapping: counting through `memmap` itself is several times slower.
        self._words = np.asarray(np.memmap(path, np.int64, "r+", shape=(_WORDS,)))

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Count."""
        self._words[counter] += amount

    def close_slot(self, nonce: int, reason: CloseReason) -> None:
        """Record that the slot of request `nonce` is closed."""
        self._words[_CLOSED + reason - 1] += 1
        place = _HEADER + 2 * (nonce % RING)
        self._words[place + 1] = reason
        self._words[place] = nonce

    def prevent(self, nonce: int) -> None:
        """Count a step in which request `nonce` could not complete a phrase it had begun."""
        place = _PREVENTED + 2 * (nonce % RING)
        if self._words[place] != nonce:
            self._words[place + 1] = 0
            self._words[place] = nonce
        self._words[place + 1] += 1

    def withdraw(self, nonce: int, reason: CloseReason) -> None:
        """Take back `close_slot`: the row that had nothing left was a draft that was rejected."""
        self._words[_CLOSED + reason - 1] -= 1
        place = _HEADER + 2 * (nonce % RING)
        if self._words[place] == nonce:
            self._words[place] = 0


class LedgerReader:
    """The gateway's side: all workers' files under a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, np.memmap[tuple[int], np.dtype[np.int64]]] = {}

    def closed(self, nonce: int) -> CloseReason | None:
        """Why the slot of this request was closed, if it was."""
        place = _HEADER + 2 * (nonce % RING)
        for words in self._open():
            if words[place] == nonce:
                return CloseReason(int(words[place + 1]))
        return None

    def prevented(self, nonce: int) -> int:
        """In how many steps this request could not complete a phrase it had begun.

        Workers that compute the same request count the same steps.
        """
        place = _PREVENTED + 2 * (nonce % RING)
        return max((int(w[place + 1]) for w in self._open() if w[place] == nonce), default=0)

    def total(self, counter: Counter) -> int:
        """A counter over all workers."""
        return sum(int(words[counter]) for words in self._open())

    def closed_total(self, reason: CloseReason) -> int:
        """Slots closed for a reason, over all workers."""
        return sum(int(words[_CLOSED + reason - 1]) for words in self._open())

    def _open(self) -> Iterable[np.memmap[tuple[int], np.dtype[np.int64]]]:
        for path in self._directory.glob("*.ledger"):
            if path not in self._files and path.stat().st_size == _WORDS * 8:
                self._files[path] = np.memmap(path, np.int64, "r", shape=(_WORDS,))
        return self._files.values()
