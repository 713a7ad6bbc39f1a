"""The token filter: follows each row's text and says which tokens it may not take next.

This is GUARD's hard match (arXiv 2505.13312, controlled decoding) on bytes instead of on one
tokenisation: no reachable token sequence spells an active phrase. It knows positions and flat
indices, not engines: `guard.steering` owns the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard import kernels
from guard.active_sets import ActiveSet, ActiveSets
from guard.automaton import Tables
from guard.stream import CharClass
from guard.units import Units
from guard.vocabulary import Body, Vocabulary

Int64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Position:
    """Where a text stands in the automaton.

    `state` is the trie state, `before` the class of the last character, `pending` the bytes of a
    character that is not finished yet.
    """

    state: int = 0
    before: int = int(CharClass.OTHER)
    pending: bytes = b""


class TokenFilter:
    """One policy snapshot's automaton over one vocabulary."""

    def __init__(self, tables: Tables, units: Units, vocabulary: Vocabulary) -> None:
        self._tables = tables
        self._vocabulary = vocabulary
        self.sets = ActiveSets(tables, units, vocabulary)
        self._longest = int(tables.longest[0])
        self._out = np.empty(4096, np.int64)
        self._begun = np.zeros(1, np.int64)

    @property
    def num_begun(self) -> int:
        """Rows of the last `forbidden` call in which a begun phrase could be completed."""
        return int(self._begun[0])

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
        plain: list[tuple[Position, int]] = []
        for position, token in zip(positions, tokens, strict=True):
            if position.pending:
                self._read(position, self._vocabulary.after(position.pending, token))
            elif not self._vocabulary.is_transparent(token):
                plain.append((position, token))
        if plain:
            self._advance_plain(plain)

    def forbidden(
        self,
        positions: Sequence[Position],
        active: Sequence[ActiveSet],
        rows: Sequence[int],
        width: int,
    ) -> Int64:
        """Flat indices row * width + token that would complete an active phrase.

        Valid until the next call: the array is a view of a buffer that is used again.
        """
        tables, sets = self._tables, self.sets
        n = len(positions)
        states = np.fromiter((0 if p.pending else p.state for p in positions), np.int64, n)
        classes = np.fromiter(
            (CharClass.OTHER if p.pending else p.before for p in positions), np.int64, n
        )
        arguments = (
            tables.fail,
            tables.entry_state,
            tables.entry_start,
            tables.entry_phrase,
            tables.entry_low,
            tables.entry_high,
            self._vocabulary.order,
            sets.bits,
            sets.pool,
            sets.bounds,
            states,
            classes,
            np.fromiter((a.index for a in active), np.int64, n),
            np.asarray(rows, np.int64),
            width,
        )
        count = kernels.collect(*arguments, self._out, self._begun)
        if count > self._out.shape[0]:
            self._out = np.empty(2 * count, np.int64)
            kernels.collect(*arguments, self._out, self._begun)
        pending = [i for i, p in enumerate(positions) if p.pending]
        if not pending:
            return self._out[:count]
        extra = [rows[i] * width + self._finishing(positions[i], active[i]) for i in pending]
        return np.concatenate([self._out[:count], *extra])

    def completes(self, position: Position, active: ActiveSet, token: int) -> bool:
        """Whether one token would complete an active phrase: the definition, for tests."""
        vocabulary = self._vocabulary
        if vocabulary.is_transparent(token):
            return False
        body = vocabulary.after(position.pending, token)
        stream = np.frombuffer(body.stream, np.uint8)
        return bool(
            kernels.completes(
                *self._links(active),
                position.state,
                position.before,
                stream,
                0,
                len(stream),
                int(body.first),
            )
        )

    def _advance_plain(self, plain: Sequence[tuple[Position, int]]) -> None:
        tables, bodies = self._tables, self._vocabulary.bodies
        n = len(plain)
        states = np.fromiter((p.state for p, _ in plain), np.int64, n)
        classes = np.fromiter((p.before for p, _ in plain), np.int64, n)
        tokens = np.fromiter((t for _, t in plain), np.int64, n)
        kernels.advance(
            tables.first_child,
            tables.label,
            tables.fail,
            bodies.bytes,
            bodies.start,
            bodies.first,
            bodies.last,
            tokens,
            states,
            classes,
        )
        has_pending = self._vocabulary.has_pending[tokens]
        for i, (position, token) in enumerate(plain):
            position.state, position.before = int(states[i]), int(classes[i])
            if has_pending[i]:
                position.pending = self._vocabulary.pending_of(token)

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

    def _finishing(self, position: Position, active: ActiveSet) -> Int64:
        """Tokens that finish the pending character and complete an active phrase.

        All other tokens leave it broken: they stand behind a replacement character, which is in no
        phrase, so for them `forbidden` takes the row as if at the root.
        """
        found = self._vocabulary.continuations(position.pending)
        result = np.zeros(found.tokens.shape[0], np.bool_)
        kernels.completing(
            *self._links(active),
            position.state,
            position.before,
            found.bodies.bytes,
            found.bodies.start,
            found.bodies.first,
            result,
        )
        return found.tokens[result].astype(np.int64)

    def _links(self, active: ActiveSet) -> tuple[npt.NDArray[np.generic], ...]:
        tables = self._tables
        return (
            tables.first_child,
            tables.label,
            tables.fail,
            tables.out_state,
            tables.phrase_open,
            tables.phrase_any,
            self.sets.bits[active.index],
        )
