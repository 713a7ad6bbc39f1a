"""Prov-Decode: no steered answer completes an n-gram of a registered document.

After Prov-Decode of TraceAlign (arXiv 2508.02063), exact instead of scored: whatever follows *any*
occurrence of the last n - 1 tokens in a registered text is forbidden, so no run of n of their
tokens is ever sampled. The tokens of an answer count across special ones, those of the prompt from
its last special one on, as in the token filter: an n-gram may begin in an answer that was begun for
the model. With a token all those are forbidden whose bytes begin its bytes: else a model that may
not say " harbour" could go on with " har", and the text would go on verbatim. End of text is never
forbidden.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guard.errors import CompileError
from guard.kernels import Array, short_jit, touch_all
from guard.loaded import Pause, no_pause
from guard.positions import with_room
from guard.tokenisations import Tokenisations
from guard.vocabulary import Prefixes, Vocabulary
from tracing.successor_kernels import veto_rows
from tracing.successors import SuccessorTable, compile_successors

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

SHORTEST = 8  # tokens of the shortest text that is vetoed as a whole


@dataclass(frozen=True, slots=True)
class CompiledVeto:
    """The table, and per owner what its operator is told: numbers only."""

    table: SuccessorTable
    reports: dict[str, dict[str, Any]]


def compile_veto(
    texts: Iterable[tuple[str, str]],
    tokenisations: Tokenisations,
    vocabulary: Vocabulary,
    progress: Callable[[str], None] = lambda shown: None,
    limits: Mapping[str, int] | None = None,
) -> CompiledVeto:
    """Compile texts that must not come back verbatim.

    Args:
        texts: (owner, text) pairs, taken one after the other.
        tokenisations: of the served model's tokenizer.
        progress: called after every text with how far it is.
        limits: tokens of the shortest run that must not come out, by owner where it is not that of
            the tokenisations.

    The reports hold `minimum_match`, `documents`, `tokens`, and how many documents are
    `too_short` to be vetoed. The hashes' key depends on the content, so that the same texts give
    the same table.

    Raises:
        CompileError: there are 2**31 n-grams or more.
    """
    special = np.flatnonzero(vocabulary.transparent)
    sequences: list[npt.NDArray[np.uint32]] = []
    runs: list[int] = []
    reports: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256(vocabulary.fingerprint.encode())
    for done, (owner, text) in enumerate(texts, 1):
        limit = (limits or {}).get(owner, tokenisations.minimum_match)
        n, shortest = limit - 1, min(limit - 1, SHORTEST)
        spoken = [ids[~np.isin(ids, special)] for ids in tokenisations.of(text, limit)]
        sequences += spoken
        runs += [n] * len(spoken)
        digest.update(b"%d " % n + text.encode("utf-8", "surrogatepass") + b"\0")
        length = len(spoken[0]) if spoken else 0
        report = reports.setdefault(
            owner, {"minimum_match": limit, "documents": 0, "tokens": 0, "too_short": 0}
        )
        report["documents"] += 1
        report["tokens"] += length
        report["too_short"] += length < shortest
        progress(f"documents: {done} tokenised")
    tokenisations.forget_unused()
    salt = int.from_bytes(digest.digest()[:8], "little")
    table = compile_successors(sequences, runs, vocabulary.size, shortest=SHORTEST, salt=salt)
    if max(len(table.tokens), len(table.keys)) >= 2**31:
        raise CompileError("the documents have more n-grams than one policy can hold")
    return CompiledVeto(table, reports)


class Veto:
    """One policy snapshot's table in the worker, with each slot's last tokens.

    Slots are numbered by `guard.positions.Positions`.
    """

    def __init__(self, table: SuccessorTable, prefixes: Prefixes, vocabulary: Vocabulary) -> None:
        self.table = table
        self.is_empty = not len(table.keys)
        self._vocabulary = vocabulary
        self._transparent = vocabulary.transparent
        self._constants = (*table.plain(), prefixes.start, prefixes.tokens)
        self._width = int(table.lengths[0]) if len(table.lengths) else 0
        self._windows = np.zeros((64, self._width), np.int64)
        self._filled = np.zeros(64, np.int64)
        self._out = np.empty(4096, np.int64)

    def prepare(self, pause: Pause = no_pause) -> None:
        """`TokenFilter.prepare` for the table."""
        touch_all(self.table.arrays().values(), pause)

    def seed(self, slot: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Set what a slot's text ends with: the answer so far and the prompt's end."""
        self._windows = with_room(self._windows, slot + 1)
        self._filled = with_room(self._filled, slot + 1)
        last = context(self._vocabulary, prompt, output, self._width)
        self._windows[slot, self._width - len(last) :] = last
        self._filled[slot] = len(last)

    def advance(self, slot: int, token: int) -> None:
        """Move one slot over one token."""
        if self.is_empty:
            return
        one = (np.array([slot], np.int64), np.array([token], np.int64))
        shift_in(self._windows, self._filled, *one, self._transparent)

    def step(
        self, slots: Int64, tokens: Int64, rows: Int64, width: int, logits: Float32
    ) -> tuple[int, Int64]:
        """One decode step: move each slot over its token, then forbid what would complete a run.

        Args:
            slots: [n] slot numbers.
            tokens: [n] what each was given last, negative for nothing.
            rows: [n] their rows of the logits.
            width: tokens in a row.
            logits: [rows, width] float32, set to minus infinity in place; may have no rows.

        Returns:
            How many tokens were forbidden, and where there are no logits their flat indices
            row * width + token, until the next step.
        """
        if self.is_empty:
            return 0, self._out[:0]
        where = (slots, rows, width, logits)
        state = (self._windows, self._filled, self._transparent)
        count = int(veto_step(*self._constants, *state, tokens, *where, self._out))
        if not len(logits) and count > len(self._out):
            self._out = np.empty(2 * count, np.int64)
            # The slots have moved already.
            still = np.full_like(tokens, -1)
            veto_step(*self._constants, *state, still, *where, self._out)
        return count, self._out[: 0 if len(logits) else count]


def context(
    vocabulary: Vocabulary, prompt: Sequence[int], output: Sequence[int], length: int
) -> list[int]:
    """At most `length` tokens that a text ends with, oldest first; see the module's text."""
    found: list[int] = []
    for tokens, spoken in ((output, True), (prompt, False)):
        for at in range(len(tokens) - 1, -1, -1):
            if len(found) == length:
                break
            if not vocabulary.is_transparent(tokens[at]):
                found.append(tokens[at])
            elif not spoken:
                break
    return found[::-1]


@short_jit
def shift_in(
    windows: Array, filled: Array, slots: Array, tokens: Array, transparent: Array
) -> None:
    """Append a token to each slot's window; special ones and padding leave no trace."""
    width = windows.shape[1]
    for i in range(slots.shape[0]):
        slot, token = slots[i], tokens[i]
        if token < 0 or token >= transparent.shape[0] or transparent[token]:
            continue
        for k in range(width - 1):
            windows[slot, k] = windows[slot, k + 1]
        windows[slot, width - 1] = token
        filled[slot] = min(filled[slot] + 1, width)


@short_jit
def veto_step(
    keys: Array,
    starts: Array,
    successors: Array,
    buckets: Array,
    dense_keys: Array,
    dense: Array,
    lengths: Array,
    salt: Any,
    prefix_start: Array,
    prefix: Array,
    windows: Array,
    filled: Array,
    transparent: Array,
    tokens: Array,
    slots: Array,
    rows: Array,
    width: int,
    logits: Array,
    out: Array,
) -> Any:
    """`Veto.step`; gives how many tokens are forbidden, of which `out` holds the first."""
    shift_in(windows, filled, slots, tokens, transparent)
    count, _ = veto_rows(
        keys,
        starts,
        successors,
        buckets,
        dense_keys,
        dense,
        lengths,
        salt,
        prefix_start,
        prefix,
        windows,
        filled,
        slots,
        rows,
        width,
        logits,
        out,
    )
    return count
