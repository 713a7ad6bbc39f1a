"""Steering where the device samples: `guard.steering` for an engine whose host never sees a token.

The engine numbers its slots. A slot is opened when a request enters it and is known here until the
next request does: nothing says when one leaves. An error is a state, never an exception: a slot
that cannot be guarded is closed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.targets import Phrase
from guard.active_sets import ActiveSet, ActiveSets
from guard.automaton import build_tables
from guard.device_filter import DeviceFilter
from guard.device_policy import DevicePolicy, DeviceSets, DeviceTables, DeviceVeto
from guard.device_report import DeviceReport
from guard.device_vocabulary import DeviceVocabulary
from guard.errors import (
    AssistantError,
    AssistantFull,
    GuardError,
    ModelUnreadable,
    SnapshotError,
)
from guard.follower import Active
from guard.kernels import touch_all
from guard.ledger import CloseReason, Counter, LedgerWriter
from guard.loaded import KEPT_POLICIES, Loaded, Pause, no_pause
from guard.loading import WorkerPart, load_part
from guard.params import GuardParams
from guard.patterns import index_phrases
from guard.semantic_penalties import Penalties
from guard.uld.device_subtracting import DeviceSubtraction, Lengths
from guard.uld.rules import chosen_rules
from guard.uld.subtracting import Recalls
from guard.units import Units
from guard.vocabulary import Prefixes, Vocabulary
from tracing.successors import compile_successors

if TYPE_CHECKING:
    from guard.uld.assistants import Assistants

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Slot:
    """What the host knows of a steered slot; no policy if it is closed from the start."""

    nonce: int
    policy: DevicePolicy | None = None
    active: ActiveSet | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Host:
    """A policy as the host holds it, with its active sets."""

    part: WorkerPart
    sets: ActiveSets

    @classmethod
    def of(cls, part: WorkerPart, vocabulary: Vocabulary) -> _Host:
        return cls(part, ActiveSets(part.tables.plain(), part.units, vocabulary))

    def prepare(self, pause: Pause) -> None:
        """Bring everything into memory that going to the device would otherwise wait for."""
        for part in (self.part.tables, self.part.successors):
            touch_all(part.arrays().values(), pause)
        self.sets.prepare(pause)


class DeviceSteering:
    """Everything one worker knows about forgetting, for slots 0 .. num_slots - 1.

    Args:
        snapshots: directory of policy snapshots.
        vocabulary: of the served model's tokenizer.
        end_ids: tokens that end a text; the first is forced when a slot is closed.
        ledger: where facts for the gateway go.
        device: of the logits.
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
        *,
        num_slots: int,
        device: torch.device,
        assistants: Assistants | None = None,
    ) -> None:
        if not end_ids:
            raise GuardError("the model has no end-of-text token, so a slot could not be closed")
        self._snapshots = snapshots
        self._vocabulary = vocabulary
        self._end_ids = tuple(end_ids)
        self._prefixes = vocabulary.prefixes(end_ids)
        self._ledger = ledger
        self._device = device
        self._assistants = assistants
        self._subtraction = DeviceSubtraction()
        on_device = DeviceVocabulary.build(vocabulary).to(device)
        self._filter = DeviceFilter(on_device, num_slots, end_ids[0])
        self._filter.warm_up(_example(vocabulary, device))
        self._report = DeviceReport(self._filter.report, ledger)
        self._slots: dict[int, _Slot] = {}
        self._steered: npt.NDArray[np.bool_] = np.zeros(num_slots, np.bool_)
        self._policies: OrderedDict[str, DevicePolicy] = OrderedDict()
        self._loaded = Loaded(self._load, lambda found: found.sets.is_used)
        self._ids = count(1)

    def preload(self, active: Active) -> None:
        """Read and check a policy before a request asks for it; it goes to the device with that.

        Raises:
            SnapshotError: the snapshot is missing, damaged or made for another tokenizer.
            AssistantError: what it subtracts cannot be loaded.
        """
        part = self._loaded.preload(active.digest).part
        if self._assistants is not None:
            self._assistants.switch(r.assistant for r in part.rules if r is not None)

    def open_slot(self, slot: int, params: GuardParams, known: Sequence[int] = ()) -> None:
        """A request has entered a slot, new or resumed; `known` are its tokens, if they are."""
        self.leave_slot(slot)
        policy = active = None
        try:
            policy = self._policy(params.digest)
            active = policy.sets.acquire(params.targets, params.items)
            recalls = self._recalls(policy, params)
            self._filter.open_slot(slot, policy, active.index, params.nonce)
            if recalls is not None:
                self._subtraction.open_slot(slot, recalls, known)
        except SnapshotError as error:
            logger.error("a request asks for a policy that cannot be used: %s", error)
            self._ledger.add(Counter.SNAPSHOT_FAILURES)
            self._close(slot, params.nonce, CloseReason.SNAPSHOT_UNAVAILABLE)
        except (AssistantError, ModelUnreadable) as error:
            logger.error("a request asks for an assistant that cannot be used: %s", error)
            self._close(slot, params.nonce, CloseReason.ASSISTANT_UNAVAILABLE)
        except IndexError:
            self._close(slot, params.nonce, CloseReason.BAD_PARAMETERS)
        except Exception:
            logger.exception("a slot could not be opened")
            self._close(slot, params.nonce, CloseReason.INTERNAL_ERROR)
        self._slots[slot] = _Slot(params.nonce, policy if active else None, active)
        self._steered[slot] = True

    def leave_slot(self, slot: int) -> None:
        """What was in the slot has gone; if nothing is opened there, its rows are left alone."""
        left = self._slots.pop(slot, None)
        if left is None:
            return
        self._steered[slot] = False
        self._subtraction.leave_slot(slot)
        self._filter.leave_slot(slot)
        if left.policy is not None and left.active is not None:
            left.policy.sets.release(left.active)

    def flush(self) -> None:
        """Bring what has changed to the device, in the order of the stream."""
        try:
            for policy in {id(s.policy): s.policy for s in self._slots.values()}.values():
                if policy is not None:
                    policy.sets.upload()
            self._filter.flush()
        except Exception:
            logger.exception("the device could not be told of new requests")
            self._close_all(list(self._slots))

    def apply(
        self,
        logits: torch.Tensor,
        batch: npt.NDArray[np.integer[Any]],
        lengths: Lengths | None = None,
        **step: torch.Tensor,
    ) -> None:
        """Forbid, in place, what each row may not take next; the host does not wait.

        Args:
            logits: [rows, vocabulary] float32.
            batch: the slots in this batch, as the host knows them.
            lengths: of their texts; without them nothing can be subtracted.
            step: the other tensors that `DeviceFilter.apply` takes.
        """
        here = batch[self._steered[batch]].tolist()
        if not here:
            return
        try:
            self._subtract(logits, batch, lengths, step["tokens"])
            policies = {id(p): p for s in here if (p := self._slots[s].policy) is not None}
            self._filter.apply(logits, policies.values(), **step)
            self._report.send()
        except Exception:
            logger.exception("a decode step could not be guarded")
            self._filter.shut(logits, step["slot_of"])
            self._close_all(here)

    def _subtract(
        self,
        logits: torch.Tensor,
        batch: npt.NDArray[np.integer[Any]],
        lengths: Lengths | None,
        history: torch.Tensor,
    ) -> None:
        """Take off what the assistants recall; a slot that this fails for is closed."""
        failed: dict[int, CloseReason] = {}

        def fail(slot: int, error: Exception) -> None:
            full = isinstance(error, AssistantFull)
            failed[slot] = CloseReason.ASSISTANT_UNAVAILABLE if full else CloseReason.INTERNAL_ERROR

        count = self._subtraction.apply(logits, batch.tolist(), lengths, history, fail)
        self._ledger.add(Counter.SUBTRACTED_STEPS, count)
        for slot, reason in failed.items():
            self._shut(slot, reason)
        if failed:
            self._filter.flush()

    def _recalls(self, policy: DevicePolicy, params: GuardParams) -> Recalls | None:
        if not any(policy.rules):
            return None
        if self._assistants is None:
            raise AssistantError("this worker subtracts nothing")
        found = chosen_rules(policy.rules, params, self._assistants.limits)
        return Recalls.of(found, self._assistants.get)

    def _shut(self, slot: int, reason: CloseReason) -> None:
        """Close a slot that was open."""
        nonce = self._slots[slot].nonce
        self.leave_slot(slot)
        self._close(slot, nonce, reason)
        self._slots[slot] = _Slot(nonce)
        self._steered[slot] = True

    def _close(self, slot: int, nonce: int, reason: CloseReason) -> None:
        self._filter.close_slot(slot, reason, nonce)
        self._ledger.close_slot(nonce, reason)

    def _close_all(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._shut(slot, CloseReason.INTERNAL_ERROR)

    def _policy(self, digest: str) -> DevicePolicy:
        policy = self._policies.get(digest)
        if policy is None:
            policy = self._policies[digest] = _on_device(
                next(self._ids), self._loaded.get(digest), self._prefixes, self._device
            )
            while len(self._policies) > KEPT_POLICIES:
                # Slots that are pinned to an old policy hold it themselves.
                self._policies.popitem(last=False)
        return policy

    def _load(self, digest: str, pause: Pause | None) -> _Host:
        part = load_part(self._snapshots, digest, self._vocabulary, self._end_ids, pause)
        if self._assistants is None and any(part.rules):
            raise AssistantError("this worker subtracts nothing")
        found = _Host.of(part, self._vocabulary)
        found.prepare(pause or no_pause)
        return found


def _on_device(id_: int, found: _Host, prefixes: Prefixes, device: torch.device) -> DevicePolicy:
    tables, table = found.part.tables, found.part.successors
    veto = DeviceVeto.upload(table, prefixes, device) if len(table.keys) else None
    return DevicePolicy(
        id_,
        int(tables.longest[0]),
        DeviceTables.upload(tables, device),
        DeviceSets(found.sets, device),
        veto,
        found.part.rules,
    )


def _example(vocabulary: Vocabulary, device: torch.device) -> DevicePolicy:
    """A policy to compile the kernels with."""
    patterns, ids = index_phrases([Phrase("a")])
    tables = build_tables(patterns, vocabulary)
    units = Units.build([ids], [], Penalties.build([{0: 1.0}]))
    part = WorkerPart(tables, units, compile_successors([[0, 1, 2]], 3, vocabulary.size))
    policy = _on_device(0, _Host.of(part, vocabulary), vocabulary.prefixes(), device)
    policy.sets.acquire((0,), ())
    policy.sets.upload()
    return policy
