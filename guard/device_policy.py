"""One policy snapshot's automaton and active sets as tensors.

The host keeps what it loaded (memory-mapped), so tensors can be dropped while no row needs them and
brought back later.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guard.active_sets import ActiveSet, ActiveSets
from guard.automaton import Tables
from guard.uld.rules import Rules
from guard.vocabulary import Prefixes
from tracing.successors import SuccessorTable


@dataclass(frozen=True, slots=True)
class DeviceTables:
    """The arrays of `guard.automaton.Tables` that a decode step reads."""

    first_child: torch.Tensor
    label: torch.Tensor
    fail: torch.Tensor
    out_state: torch.Tensor
    phrase_open: torch.Tensor
    phrase_any: torch.Tensor
    entry_state: torch.Tensor
    entry_start: torch.Tensor
    entry_phrase: torch.Tensor
    entry_low: torch.Tensor
    entry_high: torch.Tensor

    @classmethod
    def upload(cls, tables: Tables, device: torch.device) -> DeviceTables:
        """Copy to the device, in the order of the current stream."""
        return cls(*(to_device(getattr(tables, f.name), device) for f in fields(cls)))


class DeviceSets:
    """The device's copy of `ActiveSets`, brought up to date by `upload`.

    Attributes:
        bits, bounds, pool, amounts: as in `ActiveSets`.
    """

    def __init__(self, sets: ActiveSets, device: torch.device) -> None:
        self._sets = sets
        self._device = device
        self._known: dict[int, ActiveSet] = {}
        self._new: list[int] = []
        self._host_bounds = sets.bounds.copy()
        self._upload_all()

    def acquire(self, targets: tuple[int, ...], items: tuple[int, ...]) -> ActiveSet:
        """`ActiveSets.acquire`; the set is on the device after the next `upload`.

        Raises:
            IndexError: a unit does not exist in this snapshot.
        """
        active = self._sets.acquire(targets, items)
        if self._known.get(active.index) is not active:
            self._known[active.index] = active
            self._new.append(active.index)
        return active

    def release(self, active: ActiveSet) -> None:
        """`ActiveSets.release`."""
        self._sets.release(active)

    @property
    def has_penalties(self) -> bool:
        """`ActiveSets.has_penalties`."""
        return self._sets.has_penalties

    def upload(self) -> None:
        """Copy what is new, in the order of the current stream."""
        if not self._new:
            return
        sets = self._sets
        grown = sets.bits.shape != self.bits.shape or sets.pool.shape != self.pool.shape
        old = np.setdiff1d(list(self._known), self._new)
        if grown or not np.array_equal(self._host_bounds[old], sets.bounds[old]):
            self._upload_all()
            return
        copy_to(self.bounds, sets.bounds)
        for index in self._new:
            first, *_, last = sets.bounds[index].tolist()
            copy_to(self.bits[index], sets.bits[index])
            copy_to(self.pool[first:last], sets.pool[first:last])
            copy_to(self.amounts[first:last], sets.amounts[first:last])
        self._note()

    def _upload_all(self) -> None:
        sets = self._sets
        self.bits = to_device(sets.bits, self._device)
        self.bounds = to_device(sets.bounds, self._device)
        self.pool = to_device(sets.pool, self._device)
        self.amounts = to_device(sets.amounts, self._device)
        self._note()

    def _note(self) -> None:
        self._new.clear()
        self._host_bounds = self._sets.bounds.copy()


@dataclass(frozen=True, slots=True)
class DeviceVeto:
    """The arrays of `tracing.successors.SuccessorTable`, none of which is unsigned here.

    `successors` are its tokens; `salt` is a tensor of one number, so that kernels need not be
    compiled for it; `shift` brings a hash to its bucket. `prefix_start` and `prefix` are those of
    `guard.vocabulary.Prefixes`.
    """

    keys: torch.Tensor
    starts: torch.Tensor
    successors: torch.Tensor
    buckets: torch.Tensor
    dense_keys: torch.Tensor
    dense: torch.Tensor
    lengths: torch.Tensor
    salt: torch.Tensor
    prefix_start: torch.Tensor
    prefix: torch.Tensor
    shift: int

    @classmethod
    def upload(cls, table: SuccessorTable, prefixes: Prefixes, device: torch.device) -> DeviceVeto:
        """Copy to the device, in the order of the current stream."""

        def numbers(array: npt.NDArray[Any]) -> torch.Tensor:
            return to_device(array.astype(np.int32), device)

        return cls(
            to_device(table.keys.view(np.int64), device),
            numbers(table.starts),
            numbers(table.tokens),
            numbers(table.buckets),
            numbers(table.dense_keys),
            to_device(table.dense, device),
            numbers(table.lengths),
            to_device(np.array([table.salt], np.uint64).view(np.int64), device),
            numbers(prefixes.start),
            numbers(prefixes.tokens),
            64 - (len(table.buckets) - 1).bit_length() + 1,
        )


@dataclass(slots=True, eq=False)
class DevicePolicy:
    """A policy on the device.

    `id` is what slots name it by; `longest` the bytes of its longest pattern; `veto` is None where
    no document is registered; `rules` say what is subtracted.
    """

    id: int
    longest: int
    tables: DeviceTables
    sets: DeviceSets
    veto: DeviceVeto | None = None
    rules: Rules = ()


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy on the device, in the order of the current stream; the host does not wait."""
    return _staged(array, device).to(device, non_blocking=True)


def copy_to(target: torch.Tensor, array: npt.NDArray[Any]) -> None:
    """Overwrite a tensor, in the order of its current stream; the host does not wait."""
    target.copy_(_staged(array, target.device), non_blocking=True)


def _staged(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    # Torch's allocator gives pinned memory out again only when the copy from it is done.
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    staged = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    staged.numpy()[...] = array
    return staged
