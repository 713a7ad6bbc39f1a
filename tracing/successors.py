"""Prov-Decode's table: which tokens would complete a registered n-gram here?

For every run of n - 1 tokens of the registered documents, all tokens that follow it at any of its
occurrences. The runs are kept as keyed 64-bit hashes only, sorted; their successors stand one after
the other, and runs with many of them have a bit per token instead. The table alone therefore does
the veto, without the documents' text. It is not a secret keeper, though: who has a run and the key
can read on from there.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from tracing.sorting import Array
from tracing.successor_kernels import hash_runs, veto_rows

_KEYS_PER_BUCKET = 4
_DENSE_ABOVE = 64
_NO_PREFIXES = (np.empty(0, np.int32), np.empty(0, np.int32))
_NAMES = ("keys", "starts", "tokens", "buckets", "dense_keys", "dense", "lengths")


@dataclass(frozen=True, slots=True)
class SuccessorTable:
    """A compiled table. C runs, S successors, H runs with a bitmask, V tokens.

    `lengths` are the sizes of run to look up, the longest first: n - 1 of every n that documents
    have, and shorter ones for whole documents of fewer tokens.
    """

    keys: Array  # [C] uint64, sorted
    starts: Array  # [C + 1] uint32, into `tokens`
    tokens: Array  # [S] uint16 or uint32
    buckets: Array  # uint32, first key of every value of the leading bits
    dense_keys: Array  # [H] int64, rows of `keys`, sorted
    dense: Array  # [H, ceil(V / 8)] uint8
    lengths: Array  # [k] int64, descending
    salt: int
    num_tokens: int

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, name).nbytes for name in _NAMES)

    def arrays(self) -> dict[str, Array]:
        """Everything by name, for storage."""
        found = {name: getattr(self, name) for name in _NAMES}
        found["salt"] = np.array([self.salt], np.uint64)
        return found | {"num_tokens": np.array([self.num_tokens], np.int64)}

    @classmethod
    def load(cls, arrays: Mapping[str, Array]) -> SuccessorTable:
        """The inverse of `arrays`.

        Raises:
            KeyError: an array is missing.
        """
        found = {name: arrays[name] for name in _NAMES}
        return cls(**found, salt=int(arrays["salt"][0]), num_tokens=int(arrays["num_tokens"][0]))

    def forbid(self, windows: Array, filled: Array, logits: Array) -> int:
        """Write minus infinity over every token that completes a registered n-gram.

        Args:
            windows: [B, W] int64, each row's last tokens, newest at the right; W >= n - 1.
            filled: [B] int64, how many of them are there.
            logits: [B, V] float32, changed in place.

        Returns:
            How many tokens were forbidden, over all rows.
        """
        rows = np.arange(windows.shape[0])
        none = np.empty(0, np.int64)
        where = (windows, filled, rows, rows, logits.shape[1])
        return int(veto_rows(*self.plain(), *_NO_PREFIXES, *where, logits, none)[0])

    def vetoes(self, windows: Array, filled: Array) -> list[list[int]]:
        """The forbidden tokens of each row, sorted; arguments as for `forbid`."""
        rows = np.arange(windows.shape[0])
        none = np.empty((0, self.num_tokens), np.float32)
        out = np.empty(len(rows) * len(self.lengths) * _DENSE_ABOVE, np.int64)
        where = (windows, filled, rows, rows, self.num_tokens)
        count = veto_rows(*self.plain(), *_NO_PREFIXES, *where, none, out)[0]
        if count > len(out):
            out = np.empty(count, np.int64)
            veto_rows(*self.plain(), *_NO_PREFIXES, *where, none, out)
        found: list[set[int]] = [set() for _ in range(len(rows))]
        for at in out[:count].tolist():
            found[at // self.num_tokens].add(at % self.num_tokens)
        return [sorted(tokens) for tokens in found]

    def plain(self) -> tuple[Any, ...]:
        """What `veto_rows` takes first: compiled loops take mapped arrays slowly."""
        arrays = [np.asarray(getattr(self, name)).view() for name in _NAMES]
        for array in arrays:
            array.flags.writeable = False
        return (*arrays, np.uint64(self.salt))

    def without(self, tokens: Sequence[int]) -> SuccessorTable:
        """The table, if need be a copy, that never vetoes these tokens."""
        gone = np.isin(self.tokens, np.asarray(tokens, np.int64))
        dense = self.dense
        for token in tokens:
            held = token < self.num_tokens and (dense[:, token >> 3] >> (token & 7) & 1).any()
            if held:
                dense = dense.copy() if dense is self.dense else dense
                dense[:, token >> 3] &= ~np.uint8(1 << (token & 7))
        if dense is self.dense and not gone.any():
            return self
        before = np.concatenate([[0], np.cumsum(gone)])
        starts = (self.starts - before[self.starts]).astype(self.starts.dtype)
        return replace(self, tokens=self.tokens[~gone], starts=starts, dense=dense)


def compile_successors(
    documents: Iterable[Array | Sequence[int]],
    n: int | Sequence[int],
    num_tokens: int,
    *,
    never: Sequence[int] = (),
    shortest: int = 2,
    salt: int | None = None,
) -> SuccessorTable:
    """Compile the documents' n-grams.

    Args:
        documents: token ids of each document, integers below `num_tokens`.
        n: length of the shortest run of tokens that must not come out, of each document where they
            differ; at least 2.
        num_tokens: of the model's vocabulary, padding included.
        never: tokens that are never vetoed: the ends of text.
        shortest: a document of fewer than n tokens but at least so many is vetoed as a whole.
        salt: key of the hashes; a new secret one by default.

    Raises:
        ValueError: n is below 2.
    """
    least = n if isinstance(n, int) else min(n, default=2)
    if least < 2:
        raise ValueError(f"an n-gram needs two tokens, got n={least}")
    key = secrets.randbits(64) if salt is None else salt
    pairs, lengths = _pairs(documents, n, max(2, shortest), np.uint64(key))
    hashes, tokens = _distinct(*pairs)
    if len(never):
        kept = ~np.isin(tokens, np.asarray(never, np.int64))
        hashes, tokens = hashes[kept], tokens[kept]
    first = np.concatenate([hashes[:1] == hashes[:1], hashes[1:] != hashes[:-1]])
    edges = np.flatnonzero(first)
    starts = np.append(edges, len(hashes))
    keys = hashes[edges]
    small = np.uint16 if num_tokens <= 1 << 16 else np.uint32
    sparse, starts, dense_keys, dense = _split(tokens.astype(small), starts, num_tokens)
    return SuccessorTable(
        keys=keys,
        starts=starts,
        tokens=sparse,
        buckets=_buckets(keys),
        dense_keys=dense_keys,
        dense=dense,
        lengths=np.array(lengths, np.int64),
        salt=key,
        num_tokens=num_tokens,
    )


def _pairs(
    documents: Iterable[Array | Sequence[int]],
    n: int | Sequence[int],
    shortest: int,
    salt: np.uint64,
) -> tuple[tuple[Array, Array], list[int]]:
    """Hash of every run, and the token behind it; and which lengths of run there are."""
    hashes, tokens = [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    lengths: set[int] = set()
    limits = repeat(n) if isinstance(n, int) else n
    for document, limit in zip(documents, limits, strict=False):
        ids = np.array(document, np.uint32)
        run = min(limit, len(ids)) - 1
        if run >= min(shortest, limit) - 1:
            hashes.append(hash_runs(ids, run, salt))
            tokens.append(ids[run:])
            lengths.add(run)
    return (np.concatenate(hashes), np.concatenate(tokens)), sorted(lengths, reverse=True)


def _distinct(hashes: Array, tokens: Array) -> tuple[Array, Array]:
    """Each pair once, sorted by hash, then by token."""
    order = np.argsort(hashes)
    hashes, tokens = hashes[order], tokens[order]
    del order
    edges = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(edges):
        # Only runs that occur more than once have anything to sort.
        again = np.zeros(len(hashes), np.bool_)
        again[edges] = again[edges + 1] = True
        at = np.flatnonzero(again)
        tokens[at] = tokens[at[np.lexsort((tokens[at], hashes[at]))]]
    fresh = np.ones(len(hashes), np.bool_)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (tokens[1:] != tokens[:-1])
    return hashes[fresh], tokens[fresh]


def _split(
    tokens: Array, starts: Array, num_tokens: int
) -> tuple[Array, npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Move the successors of runs with many of them into bitmasks."""
    counts = np.diff(starts)
    heavy = np.flatnonzero(counts > _DENSE_ABOVE)
    dense = np.zeros((len(heavy), (num_tokens + 7) // 8), np.uint8)
    kept = np.ones(len(tokens), np.bool_)
    for row, key in enumerate(heavy.tolist()):
        low, high = int(starts[key]), int(starts[key + 1])
        ids = tokens[low:high].astype(np.int64)
        np.bitwise_or.at(dense[row], ids >> 3, (1 << (ids & 7)).astype(np.uint8))
        kept[low:high] = False
    counts[heavy] = 0
    moved = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return tokens[kept], moved, heavy, dense


def _buckets(keys: Array) -> npt.NDArray[np.uint32]:
    """First key of every value of the leading bits; a bucket's few keys share a cache line."""
    bits = max(1, (len(keys) // _KEYS_PER_BUCKET).bit_length())
    heads = (np.arange(1, 1 << bits, dtype=np.uint64)) << np.uint64(64 - bits)
    return np.concatenate([[0], np.searchsorted(keys, heads), [len(keys)]]).astype(np.uint32)
