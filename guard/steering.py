"""Steering inside the worker: slots, the policies they are pinned to, and the logits edit.

Neutral between vLLM's runners: an adapter opens a slot when a request enters and calls `apply` with
the rows of this step. An error is a state here, never an exception, because an exception in a
decode step ends every request of the batch: a slot that cannot be guarded is *closed*, its row is
forced to end of text, and the gateway learns why from the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from guard import step_kernels
from guard.batch import Batch, Group, Slot, WorkerPolicy
from guard.errors import (
    AssistantError,
    AssistantFull,
    GuardError,
    ModelUnreadable,
    SnapshotError,
)
from guard.follower import Active
from guard.ledger import CloseReason, Counter, LedgerWriter
from guard.loaded import Loaded, Pause, no_pause
from guard.loading import load_part
from guard.params import GuardParams
from guard.positions import Positions
from guard.semantic_step import penalise
from guard.token_filter import NO_LOGITS, NO_TOKEN, TokenFilter
from guard.uld.rules import chosen_rules
from guard.uld.subtracting import Subtraction, subtract_rows
from guard.veto import Veto
from guard.vocabulary import Vocabulary
from guard.warm_up import warm_up

if TYPE_CHECKING:
    from guard.uld.assistants import Assistants

logger = logging.getLogger(__name__)


class Steering:
    """Everything one worker knows about forgetting.

    Args:
        snapshots: directory of policy snapshots.
        vocabulary: of the served model's tokenizer.
        end_ids: tokens that end a text; the first is forced when a slot is closed.
        ledger: where facts for the gateway go.
        assistants: what may be subtracted; None: a policy that subtracts is refused.

    Raises:
        GuardError: there are no `end_ids`.
    """

    def __init__(
        self,
        snapshots: Path,
        vocabulary: Vocabulary,
        end_ids: Sequence[int],
        ledger: LedgerWriter,
        assistants: Assistants | None = None,
    ) -> None:
        if not end_ids:
            raise GuardError("the model has no end-of-text token, so a slot could not be closed")
        self._snapshots = snapshots
        self._vocabulary = vocabulary
        self._end_ids = tuple(end_ids)
        self._prefixes = vocabulary.prefixes(end_ids)
        self._ledger = ledger
        self._assistants = assistants
        self._positions = Positions()
        self._batch = Batch.of([])
        self._stale = False
        self._policies = Loaded(self._load, lambda policy: policy.token_filter.sets.is_used)
        warm_up()

    def preload(self, active: Active) -> None:
        """Load a policy before a request asks for it.

        Raises:
            SnapshotError: the snapshot is missing, damaged or made for another tokenizer.
            AssistantError: what it subtracts cannot be loaded.
        """
        policy = self._policies.preload(active.digest)
        if self._assistants is not None:
            self._assistants.switch(r.assistant for r in policy.rules if r is not None)

    def open_slot(
        self,
        params: GuardParams,
        prompt: Sequence[int],
        output: Sequence[int],
        *,
        constrained: bool,
    ) -> Slot:
        """Take in a request, new or resumed; `output` holds what it has generated before.

        Of that the end may be placeholders, which are read once the engine has put tokens there.
        """
        seen = _known(output)
        slot = Slot(params.nonce, output, seen, constrained)
        if seen < len(output):
            output = output[:seen]
        try:
            slot.policy = policy = self._policies.get(params.digest)
            position = policy.token_filter.seed(prompt, output)
            slot.active = policy.token_filter.sets.acquire(params.targets, params.items)
            slot.number = self._positions.take(position, slot.active.index)
            policy.veto.seed(slot.number, prompt, output)
            slot.subtraction = self._subtraction(policy, params, prompt, output)
        except (AssistantError, ModelUnreadable) as error:
            logger.error("a request asks for an assistant that cannot be used: %s", error)
            self.close(slot, CloseReason.ASSISTANT_UNAVAILABLE)
        except SnapshotError as error:
            logger.error("a request asks for a policy that cannot be used: %s", error)
            self._ledger.add(Counter.SNAPSHOT_FAILURES)
            self.close(slot, CloseReason.SNAPSHOT_UNAVAILABLE)
        except IndexError:
            self.close(slot, CloseReason.BAD_PARAMETERS)
        except Exception:
            logger.exception("a slot could not be opened")
            self.close(slot, CloseReason.INTERNAL_ERROR)
        return slot

    def release(self, slot: Slot) -> None:
        """The request has left the batch."""
        if slot.policy is not None and slot.active is not None:
            slot.policy.token_filter.sets.release(slot.active)
            slot.active = None
        if slot.number >= 0:
            self._positions.free(slot.number)
            slot.number = -1
        if slot.subtraction is not None:
            slot.subtraction.release()
            slot.subtraction = None

    def close(self, slot: Slot, reason: CloseReason) -> None:
        """From now on the row can only end."""
        if slot.closed is None:
            slot.closed = reason
            self._stale = True
            self._ledger.close_slot(slot.nonce, reason)

    def apply(
        self,
        logits: torch.Tensor,
        slots: Iterable[tuple[int, Slot]],
        visible: Sequence[int] | None = None,
    ) -> None:
        """Forbid, in place, what each row may not take next. logits: [rows, vocabulary] float32.

        `visible` is how many tokens of each row's text the model has read with this step, where
        the engine tells: rows that have not read all are not sampled.
        """
        step = list(slots)
        try:
            self._steer(logits, step, visible)
        except Exception:
            logger.exception("a decode step could not be guarded")
            for _, slot in step:
                self.close(slot, CloseReason.INTERNAL_ERROR)
            self._end(logits, [row for row, _ in step])

    def _steer(
        self,
        logits: torch.Tensor,
        step: list[tuple[int, Slot]],
        visible: Sequence[int] | None,
    ) -> None:
        if step != self._batch.step or self._stale:
            self._arrange(step)
        batch = self._batch
        plain = _plain(logits)
        if batch.subtracted:
            self._subtract(logits, batch.subtracted, visible)
        for group in batch.groups:
            try:
                self._forbid(logits, plain, group)
            except Exception:
                logger.exception("a decode step could not be guarded")
                for slot in group.slots:
                    self.close(slot, CloseReason.INTERNAL_ERROR)
        if batch.constrained:
            self._close_empty(logits, plain, batch.constrained)
        if self._stale:
            # Slots were closed on the way.
            self._arrange(step)
        self._end(logits, self._batch.closed)

    def _end(self, logits: torch.Tensor, rows: Iterable[int]) -> None:
        """Force the end of text; takes no memory."""
        for row in rows:
            logits[row] = float("-inf")
            logits[row, self._end_ids[0]] = 0.0

    def _arrange(self, step: list[tuple[int, Slot]]) -> None:
        for group in self._batch.groups:
            for slot, expected in zip(group.slots, group.expected, strict=True):
                slot.seen = expected - 1
        self._batch = Batch.of(step)
        self._stale = False

    def _subtract(
        self,
        logits: torch.Tensor,
        rows: Sequence[tuple[int, Slot, Subtraction]],
        visible: Sequence[int] | None,
    ) -> None:
        """Take off what the assistants recall; a row that this fails for is closed."""

        def fail(slot: Slot, error: Exception) -> None:
            full = isinstance(error, AssistantFull)
            reason = CloseReason.ASSISTANT_UNAVAILABLE if full else CloseReason.INTERNAL_ERROR
            self.close(slot, reason)

        try:
            count = subtract_rows(logits, rows, fail, visible)
            self._ledger.add(Counter.SUBTRACTED_STEPS, count)
        except Exception:
            logger.exception("an assistant could not be subtracted")
            for _, slot, _ in rows:
                self.close(slot, CloseReason.INTERNAL_ERROR)

    def _subtraction(
        self,
        policy: WorkerPolicy,
        params: GuardParams,
        prompt: Sequence[int],
        output: Sequence[int],
    ) -> Subtraction | None:
        if not any(policy.rules):
            return None
        if self._assistants is None:
            raise AssistantError("this worker subtracts nothing")
        found = chosen_rules(policy.rules, params, self._assistants.limits)
        return Subtraction.of(found, self._assistants.get, prompt, output)

    def _forbid(self, logits: torch.Tensor, plain: npt.NDArray[np.float32], group: Group) -> None:
        newest = np.array(self._newest(group), np.int64)
        token_filter, veto, width = group.policy.token_filter, group.policy.veto, logits.shape[1]
        found = token_filter.step(
            self._positions, group.numbers, newest.copy(), group.rows, width, plain
        )
        indices = found.indices
        penalise(token_filter.sets, self._positions, group.numbers, group.rows, logits, plain)
        if not veto.is_empty:
            count, vetoed = veto.step(group.numbers, newest, group.rows, width, plain)
            self._ledger.add(Counter.VETOED_TOKENS, count)
            indices = np.concatenate([indices, vetoed]) if len(vetoed) else indices
        self._ledger.add(Counter.STEERED_STEPS, len(group.slots))
        self._ledger.add(Counter.FORBIDDEN_TOKENS, found.count)
        self._ledger.add(Counter.INTERCEPTED_STEPS, found.begun)
        if found.where is not None:
            for i in np.flatnonzero(found.where).tolist():
                self._ledger.prevent(group.slots[i].nonce)
        if len(indices):
            index = torch.from_numpy(indices).to(logits.device, non_blocking=True)
            logits.view(-1).index_fill_(0, index, float("-inf"))

    def _newest(self, group: Group) -> list[int]:
        """The token that each slot has still to be moved over; earlier ones are taken in here."""
        outputs = group.outputs
        lengths = list(map(len, outputs))
        if lengths == group.expected:
            tokens = [output[-1] for output in outputs]
            if min(tokens) < 0:
                tokens = list(map(self._judged, group.slots, tokens))
        else:
            tokens = [
                self._behind(slot, length - expected + 1)
                for slot, length, expected in zip(group.slots, lengths, group.expected, strict=True)
            ]
        group.expected[:] = [length + 1 for length in lengths]
        return tokens

    def _behind(self, slot: Slot, new: int) -> int:
        """`_newest` for a slot with any number of new tokens."""
        if not new:
            return NO_TOKEN
        if new < 0:
            # The engine has taken tokens back, and a position cannot go back.
            self.close(slot, CloseReason.INTERNAL_ERROR)
            return NO_TOKEN
        tokens = list(slot.output[-new:])
        if new > 1 and min(tokens) >= 0:
            assert slot.policy is not None
            position = self._positions.get(slot.number)
            for token in tokens[:-1]:
                slot.policy.token_filter.advance([position], [token])
                slot.policy.veto.advance(slot.number, token)
            self._positions.put(slot.number, position)
        return self._judged(slot, min(tokens) if min(tokens) < 0 else tokens[-1])

    def _judged(self, slot: Slot, token: int) -> int:
        if token < 0:
            # A placeholder: the engine has not said what it sampled, so nothing can be judged.
            self.close(slot, CloseReason.INTERNAL_ERROR)
            return NO_TOKEN
        return token

    def _close_empty(
        self,
        logits: torch.Tensor,
        plain: npt.NDArray[np.float32],
        constrained: Sequence[tuple[int, Slot]],
    ) -> None:
        """Close the slots whose rows have nothing left to sample."""
        rows = np.array([row for row, _ in constrained], np.int64)
        if len(plain):
            empty = np.empty(len(rows), np.bool_)
            step_kernels.nothing_left(plain, rows, empty)
        else:
            empty = logits[torch.from_numpy(rows)].isneginf().all(dim=1).cpu().numpy()
        for i in np.flatnonzero(empty).tolist():
            self.close(constrained[i][1], CloseReason.NOTHING_LEFT)

    def _load(self, digest: str, pause: Pause | None) -> WorkerPolicy:
        part = load_part(self._snapshots, digest, self._vocabulary, self._end_ids, pause)
        policy = WorkerPolicy(
            TokenFilter(part.tables, part.units, self._vocabulary),
            Veto(part.successors, self._prefixes, self._vocabulary),
            part.rules,
        )
        if self._assistants is None and any(part.rules):
            raise AssistantError("this worker subtracts nothing")
        policy.token_filter.prepare(pause or no_pause)
        policy.veto.prepare(pause or no_pause)
        return policy


def _known(output: Sequence[int]) -> int:
    """How many tokens stand before the placeholders that a text may end with."""
    known = len(output)
    while known and output[known - 1] < 0:
        known -= 1
    return known


def _plain(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    """The logits' own memory, where a compiled loop can write into it; else nothing."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous():
        return logits.numpy()
    return NO_LOGITS
