"""Steering inside the worker: slots, the policies they are pinned to, and the logits edit.

Neutral between vLLM's runners: an adapter opens a slot when a request enters and calls `apply` with
the rows of this step. An error is a state here, never an exception, because an exception in a
decode step ends every request of the batch: a slot that cannot be guarded is *closed*, its row is
forced to end of text, and the gateway learns why from the ledger.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch

from guard.active_sets import ActiveSet
from guard.automaton import Tables
from guard.errors import GuardError, SnapshotCorrupt, SnapshotError
from guard.follower import Active
from guard.ledger import CloseReason, Counter, LedgerWriter
from guard.params import GuardParams
from guard.snapshot import load_snapshot
from guard.token_filter import Position, TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary

KEPT_POLICIES = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Slot:
    """One steered request in the batch.

    `output` is the engine's live list of generated ids and `seen` how many of them `position` has
    taken in. `constrained` says that other rules (a grammar, allowed tokens) narrow the row too, so
    that nothing may be left to sample.
    """

    nonce: int
    token_filter: TokenFilter | None
    active: ActiveSet | None
    position: Position
    output: Sequence[int]
    seen: int
    constrained: bool
    closed: CloseReason | None = None


@dataclass(slots=True)
class _Rows:
    """The open slots of one step that share a policy."""

    token_filter: TokenFilter
    rows: list[int] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    active: list[ActiveSet] = field(default_factory=list)


class Steering:
    """Everything one worker knows about forgetting.

    Args:
        snapshots: directory of policy snapshots.
        vocabulary: of the served model's tokenizer.
        end_ids: tokens that end a text; the first is forced when a slot is closed.
        ledger: where facts for the gateway go.
    """

    def __init__(
        self,
        snapshots: Path,
        vocabulary: Vocabulary,
        end_ids: Sequence[int],
        ledger: LedgerWriter,
    ) -> None:
        if not end_ids:
            raise GuardError("the model has no end-of-text token, so a slot could not be closed")
        self._snapshots = snapshots
        self._vocabulary = vocabulary
        self._end_id = end_ids[0]
        self._ledger = ledger
        self._policies: OrderedDict[str, TokenFilter] = OrderedDict()

    def preload(self, active: Active) -> None:
        """Load a policy before a request asks for it.

        Raises:
            SnapshotError: the snapshot is missing, damaged or made for another tokenizer.
        """
        self._policy(active.digest)

    def open_slot(
        self,
        params: GuardParams,
        prompt: Sequence[int],
        output: Sequence[int],
        *,
        constrained: bool,
    ) -> Slot:
        """Take in a request, new or resumed; `output` holds what it has generated before."""
        slot = Slot(params.nonce, None, None, Position(), output, len(output), constrained)
        try:
            slot.token_filter = self._policy(params.digest)
            slot.position = slot.token_filter.seed(prompt, output)
            slot.active = slot.token_filter.sets.acquire(params.targets, params.items)
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
        if slot.token_filter is not None and slot.active is not None:
            slot.token_filter.sets.release(slot.active)
            slot.active = None

    def close(self, slot: Slot, reason: CloseReason) -> None:
        """From now on the row can only end."""
        if slot.closed is None:
            slot.closed = reason
            self._ledger.close_slot(slot.nonce, reason)

    def apply(self, logits: torch.Tensor, slots: Iterable[tuple[int, Slot]]) -> None:
        """Forbid, in place, what each row may not take next. logits: [rows, vocabulary] float32."""
        step = list(slots)
        for policy in self._by_policy(step):
            try:
                self._forbid(logits, policy)
            except Exception:
                logger.exception("a decode step could not be guarded")
                rows = set(policy.rows)
                for row, slot in step:
                    if row in rows:
                        self.close(slot, CloseReason.INTERNAL_ERROR)
        for row, slot in step:
            if slot.constrained and slot.closed is None and bool(logits[row].isneginf().all()):
                self.close(slot, CloseReason.NOTHING_LEFT)
            if slot.closed is not None:
                logits[row] = float("-inf")
                logits[row, self._end_id] = 0.0

    def _by_policy(self, step: Sequence[tuple[int, Slot]]) -> list[_Rows]:
        """Open slots grouped by policy, each position moved up to its last token."""
        policies: dict[int, _Rows] = {}
        fresh: list[tuple[TokenFilter, Position, int]] = []
        for row, slot in step:
            if slot.closed is not None or slot.token_filter is None or slot.active is None:
                continue
            tokens = slot.output[slot.seen :]
            if any(token < 0 for token in tokens):
                # A placeholder: the engine has not said what it sampled, so nothing can be judged.
                self.close(slot, CloseReason.INTERNAL_ERROR)
                continue
            for token in tokens[:-1]:
                slot.token_filter.advance([slot.position], [token])
            if tokens:
                fresh.append((slot.token_filter, slot.position, tokens[-1]))
            slot.seen += len(tokens)
            policy = policies.setdefault(id(slot.token_filter), _Rows(slot.token_filter))
            policy.rows.append(row)
            policy.positions.append(slot.position)
            policy.active.append(slot.active)
        fresh.sort(key=lambda f: id(f[0]))
        for _, group in groupby(fresh, key=lambda f: id(f[0])):
            filters, positions, tokens = zip(*group, strict=True)
            filters[0].advance(positions, tokens)
        return list(policies.values())

    def _forbid(self, logits: torch.Tensor, policy: _Rows) -> None:
        width = logits.shape[1]
        found = policy.token_filter.forbidden(policy.positions, policy.active, policy.rows, width)
        self._ledger.add(Counter.STEERED_STEPS, len(policy.rows))
        self._ledger.add(Counter.FORBIDDEN_TOKENS, len(found))
        self._ledger.add(Counter.INTERCEPTED_STEPS, policy.token_filter.num_begun)
        if len(found):
            index = torch.from_numpy(found).to(logits.device, non_blocking=True)
            logits.view(-1).index_fill_(0, index, float("-inf"))

    def _policy(self, digest: str) -> TokenFilter:
        policy = self._policies.get(digest)
        if policy is None:
            policy = self._load(digest)
            self._policies[digest] = policy
            while len(self._policies) > KEPT_POLICIES:
                # Slots that are pinned to an old policy hold it themselves.
                self._policies.popitem(last=False)
        return policy

    def _load(self, digest: str) -> TokenFilter:
        snapshot = load_snapshot(self._snapshots, digest)
        if snapshot.meta["vocabulary"] != self._vocabulary.fingerprint:
            raise SnapshotCorrupt(f"snapshot {digest[:12]} was made for another tokenizer")
        tables = Tables.load(snapshot.arrays("automaton"))
        return TokenFilter(tables, Units.load(snapshot.arrays("units")), self._vocabulary)
