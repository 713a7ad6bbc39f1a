"""The token filter: follows each row's text and says which tokens it may not take next.

This is GUARD's hard match (arXiv 2505.13312, controlled decoding) on bytes instead of on one
tokenisation: no reachable token sequence spells an active phrase. It knows positions and logits by
row, not engines: `guard.steering` owns requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guard import kernels, step_kernels
from guard.active_sets import ActiveSet, ActiveSets
from guard.automaton import Tables
from guard.loaded import Pause, no_pause
from guard.positions import Position, Positions
from guard.units import Units
from guard.vocabulary import Body, Vocabulary

__all__ = ["NO_LOGITS", "NO_TOKEN", "Forbidden", "Position", "TokenFilter"]

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

NO_TOKEN = -1
NO_LOGITS: Float32 = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Forbidden:
    """What one step forbade.

    `count` is the number of tokens over all rows, `begun` that of rows in which a phrase that had
    begun could be completed, `where` [n] bool which slots' those are (None for none; valid until
    the next step). `indices`, flat (row * width + token), are there only where no logits
    were given, and only until the next step.
    """

    count: int
    begun: int
    indices: Int64
    where: npt.NDArray[np.bool_] | None = None


class TokenFilter:
    """One policy snapshot's automaton over one vocabulary."""

    def __init__(self, tables: Tables, units: Units, vocabulary: Vocabulary) -> None:
        self._tables = tables = tables.plain()
        self._vocabulary = vocabulary
        self.sets = ActiveSets(tables, units, vocabulary)
        self._longest = int(tables.longest[0])
        self._out = np.empty(4096, np.int64)
        self._totals = np.zeros(5, np.int64)
        self._work = np.zeros((64, 6), np.int64)
        bodies = vocabulary.bodies
        # What `step_kernels.step_rows` takes first, in its order.
        self._constants = (
            tables.first_child,
            tables.label,
            tables.fail,
            tables.entry_state,
            tables.entry_start,
            tables.entry_phrase,
            tables.entry_low,
            tables.entry_high,
            bodies.bytes,
            bodies.start,
            bodies.first,
            bodies.last,
            vocabulary.has_pending,
            vocabulary.order,
        )

    def prepare(self, pause: Pause = no_pause) -> None:
        """Bring everything into memory that a step would otherwise wait for.

        `pause` is called after every piece of work.
        """
        kernels.touch_all(self._tables.arrays().values(), pause)
        self.sets.prepare(pause)

    def seed(self, prompt: Sequence[int], output: Sequence[int]) -> Position:
        """The position after a prompt and what has been generated so far.

        The prompt counts from its last special token on: what the user said does not run into the
        answer, but an answer that was begun for the model does.
        """
        position = Position()
        self._read(position, self._vocabulary.recent(prompt, output, self._longest))
        return position

    def advance(self, positions: Sequence[Position], tokens: Sequence[int]) -> None:
        """Move each position over one token, in place."""
        for position, token in zip(positions, tokens, strict=True):
            self._read(position, self._vocabulary.after(position.pending, token))

    def step(
        self,
        positions: Positions,
        slots: Int64,
        tokens: Int64,
        rows: Int64,
        width: int,
        logits: Float32 = NO_LOGITS,
    ) -> Forbidden:
        """One decode step: move each slot over its token, then forbid what its row may not take.

        Args:
            slots: [n] slot numbers in `positions`.
            tokens: [n] what each was given last, NO_TOKEN for nothing; used up.
            rows: [n] rows of the logits.
            width: tokens in a row.
            logits: [rows, width], set to minus infinity in place; without them the step gives
                indices.
        """
        if positions.pending:
            self._finish_characters(positions, slots, tokens)
        count, begun, unfinished = self._step(positions, slots, tokens, rows, width, logits)
        indices = self._out[: 0 if len(logits) else count]
        if unfinished:
            extra = self._inside_characters(positions, slots, tokens, rows, width)
            count += len(extra)
            if len(logits):
                logits.reshape(-1)[extra] = -np.inf
            else:
                indices = np.concatenate([indices, extra])
        where = self._work[: len(slots), 0] != 0 if begun else None
        return Forbidden(count, begun, indices, where)

    def forbidden(
        self,
        positions: Sequence[Position],
        active: Sequence[ActiveSet],
        rows: Sequence[int],
        width: int,
    ) -> Int64:
        """Flat indices [k] (row * width + token) that complete an active phrase: for tests."""
        packed = Positions()
        slots = [packed.take(p, a.index) for p, a in zip(positions, active, strict=True)]
        none = np.full(len(slots), NO_TOKEN, np.int64)
        found = self.step(packed, np.array(slots, np.int64), none, np.array(rows, np.int64), width)
        return found.indices.copy()

    def completes(self, position: Position, active: ActiveSet, token: int) -> bool:
        """Whether one token would complete an active phrase: the definition, for tests."""
        vocabulary = self._vocabulary
        if vocabulary.is_transparent(token):
            return False
        body = vocabulary.after(position.pending, token)
        stream = np.frombuffer(body.stream, np.uint8)
        return bool(
            kernels.completes(
                *self._links(),
                self.sets.bits,
                active.index,
                position.state,
                position.before,
                stream,
                0,
                len(stream),
                int(body.first),
            )
        )

    def _step(
        self,
        positions: Positions,
        slots: Int64,
        tokens: Int64,
        rows: Int64,
        width: int,
        logits: Float32,
    ) -> tuple[int, int, int]:
        sets, total = self.sets, self._totals
        if len(slots) > len(self._work):
            self._work = np.zeros((2 * len(slots), 6), np.int64)
        work = self._work
        arguments = (
            *self._constants,
            sets.bits,
            sets.pool,
            sets.bounds,
            positions.states,
            positions.classes,
            positions.unfinished,
            positions.sets,
            slots,
        )
        step_kernels.step_rows(*arguments, tokens, rows, width, logits, self._out, work, total)
        if not len(logits) and total[0] > len(self._out):
            self._out = np.empty(2 * int(total[0]), np.int64)
            # The slots have moved already.
            still = np.full_like(tokens, NO_TOKEN)
            step_kernels.step_rows(*arguments, still, rows, width, logits, self._out, work, total)
        return int(total[0]), int(total[1]), int(total[2])

    def _finish_characters(self, positions: Positions, slots: Int64, tokens: Int64) -> None:
        """Move the slots that stand inside a character; the rest is the kernel's."""
        for i, slot in enumerate(slots.tolist()):
            if slot in positions.pending and tokens[i] != NO_TOKEN:
                position = positions.get(slot)
                self.advance([position], [int(tokens[i])])
                positions.put(slot, position)
                tokens[i] = NO_TOKEN

    def _inside_characters(
        self, positions: Positions, slots: Int64, tokens: Int64, rows: Int64, width: int
    ) -> Int64:
        """Flat indices for the rows that stand inside a character."""
        found = []
        for i in np.flatnonzero(positions.unfinished[slots]).tolist():
            slot = int(slots[i])
            if slot not in positions.pending:
                positions.pending[slot] = self._vocabulary.pending_of(int(tokens[i]))
            forbidden = self._finishing(positions.get(slot), int(positions.sets[slot]))
            found.append(rows[i] * width + forbidden[forbidden < width])
        return np.concatenate(found)

    def _read(self, position: Position, body: Body) -> None:
        tables = self._tables
        position.pending = body.pending
        if body.stream:
            position.state = kernels.walk(
                tables.first_child,
                tables.label,
                tables.fail,
                position.state,
                position.before,
                np.frombuffer(body.stream, np.uint8),
                0,
                len(body.stream),
                int(body.first),
            )
            position.before = int(body.last)

    def _finishing(self, position: Position, active: int) -> Int64:
        """What may not follow an unfinished character.

        Tokens that begin with the missing bytes are read behind the pending ones. All others leave
        it broken: they stand behind a replacement character, which is in no phrase, so for them
        only phrases inside the token count.
        """
        vocabulary, sets = self._vocabulary, self.sets
        following = vocabulary.continuations(position.pending)
        result = np.zeros(following.tokens.shape[0], np.bool_)
        kernels.completing(
            *self._links(),
            sets.bits,
            active,
            position.state,
            position.before,
            following.bodies.bytes,
            following.bodies.start,
            following.bodies.first,
            result,
        )
        first, _, last = sets.bounds[active, :3]
        standing = sets.pool[first:last]
        apart = standing[~vocabulary.continues[standing]]
        return np.concatenate([apart, following.tokens[result]]).astype(np.int64)

    def _links(self) -> tuple[npt.NDArray[Any], ...]:
        tables = self._tables
        return (
            tables.first_child,
            tables.label,
            tables.fail,
            tables.out_state,
            tables.phrase_open,
            tables.phrase_any,
        )
