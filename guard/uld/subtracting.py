"""Subtraction in a batch: what rows have their assistants recall is taken off their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from guard.device_policy import to_device
from guard.errors import AssistantFull, GuardError
from guard.uld.decoder import Decoder
from guard.uld.rules import UldRule
from guard.uld.slots import Seat
from guard.uld.subtract_kernels import take_off as take_off_rows
from guard.uld.subtraction import least_possible, subtract_
from guard.uld.texts import HostText, Text

Owner = TypeVar("Owner")


@dataclass(slots=True, eq=False)
class Recall:
    """One assistant at work for a request."""

    decoder: Decoder
    weight: float
    seat: Seat = field(default_factory=Seat)


@dataclass(slots=True, eq=False)
class Recalls:
    """All assistants at work for a request, and the filter's rate."""

    members: list[Recall]
    rate: float

    @classmethod
    def of(cls, rules: Iterable[UldRule], load: Callable[[str], Decoder]) -> Recalls | None:
        """Those of a request under its targets' rules; None where there are none.

        An assistant that several targets name is subtracted once, with the largest weight; of the
        filters the widest holds.

        Raises:
            AssistantError: one cannot be loaded.
        """
        weights: dict[str, float] = {}
        rate = 0.0
        for rule in rules:
            weights[rule.assistant] = max(rule.weight, weights.get(rule.assistant, 0.0))
            rate = max(rate, rule.rate)
        members = [Recall(load(digest), weight) for digest, weight in sorted(weights.items())]
        return cls(members, rate) if members else None

    def read(self, text: Text, length: int) -> None:
        """Take in a text up to its token `length - 1`, that one excepted.

        Raises:
            AssistantFull: there is no room.
        """
        for member in self.members:
            member.decoder.read(member.seat, text, length)

    @property
    def holds(self) -> bool:
        """Whether there is any memory to give back."""
        return any(member.seat.blocks for member in self.members)

    def release(self) -> None:
        """Give the memory back; what is read next begins anew."""
        for member in self.members:
            member.decoder.release(member.seat)


@dataclass(slots=True, eq=False)
class Subtraction:
    """What is subtracted from a request's logits where the host knows its tokens.

    `text` is the prompt with as much of the output as was read; `output` the engine's live list.
    """

    prompt_length: int
    text: list[int]
    output: Sequence[int]
    recalls: Recalls

    @classmethod
    def of(
        cls,
        rules: Iterable[UldRule],
        load: Callable[[str], Decoder],
        prompt: Sequence[int],
        output: Sequence[int],
    ) -> Subtraction | None:
        """The subtraction of a request under its targets' rules; None where there is none.

        Raises:
            AssistantError: an assistant cannot be loaded.
        """
        recalls = Recalls.of(rules, load)
        return None if recalls is None else cls(len(prompt), list(prompt), output, recalls)

    def release(self) -> None:
        """The request has left the batch."""
        self.recalls.release()

    def read(self, visible: int | None) -> bool:
        """Take in what is new; says whether the row will be sampled.

        Args:
            visible: how many tokens of the text the target has read with this step: while that is
                not all, the engine discards what it samples, and the assistant need not be ahead.
                None: not known, everything is read.

        Raises:
            AssistantFull: there is no room.
            GuardError: the engine has not said what it sampled.
        """
        self.text += self.output[len(self.text) - self.prompt_length :]
        length = len(self.text)
        if not length or self.text[-1] < 0:
            raise GuardError("a token is not known")
        end = length if visible is None else min(visible, length)
        if end:
            self.recalls.read(HostText(self.text), end)
        return end == length


@dataclass(frozen=True, slots=True)
class Ready:
    """A row whose assistants have read all of its text but the last token."""

    row: int
    recalls: Recalls
    length: int


def subtract_rows(
    logits: torch.Tensor,
    rows: Sequence[tuple[int, Owner, Subtraction]],
    fail: Callable[[Owner, Exception], None],
    visible: Sequence[int] | None = None,
) -> int:
    """Change the rows in place; gives how many. logits: [rows, vocabulary] float32.

    `fail` is told whose row could not be changed, and why. `visible` is by row, see
    `Subtraction.read`.
    """
    ready: list[Ready] = []
    newest: list[int] = []
    for row, owner, subtraction in rows:
        try:
            if subtraction.read(None if visible is None else int(visible[row])):
                ready.append(Ready(row, subtraction.recalls, len(subtraction.text)))
                newest.append(subtraction.text[-1])
        except (AssistantFull, GuardError) as error:
            fail(owner, error)
    if ready:
        take_off(logits, ready, to_device(np.array(newest, np.int64), logits.device))
    return len(ready)


def take_off(logits: torch.Tensor, ready: Sequence[Ready], newest: torch.Tensor) -> None:
    """Subtract in place what the rows' assistants recall; the host does not wait.

    Args:
        logits: [rows, vocabulary] float32.
        newest: the last token of each, [ready] int64 on the logits' device.
    """
    recalled = _recalled(ready, newest)
    on_host = logits.device.type == "cpu" and logits.dtype == torch.float32
    for rate in sorted({one.recalls.rate for one in ready}):
        places = [place for place, one in enumerate(ready) if one.recalls.rate == rate]
        rows = [ready[place].row for place in places]
        first, count = rows[0], len(rows)
        if on_host and logits.is_contiguous():
            _take_off_on_host(logits, rows, places, recalled, rate)
        elif count == len(ready) and rows == list(range(first, first + count)):
            subtract_(logits[first : first + count], recalled, rate)
        else:
            at, of = _index(rows, logits), _index(places, logits)
            chosen = logits[at]
            subtract_(chosen, [(said[of], weights[of]) for said, weights in recalled], rate)
            logits[at] = chosen


def _take_off_on_host(
    logits: torch.Tensor,
    rows: Sequence[int],
    places: Sequence[int],
    recalled: Iterable[tuple[torch.Tensor, torch.Tensor]],
    rate: float,
) -> None:
    """`subtract_` for some rows, by a compiled loop."""
    plain, at = logits.numpy(), np.array(rows, np.int64)
    thresholds = least_possible(plain[at], rate)
    for said, weights in recalled:
        take_off_rows(
            plain,
            at,
            thresholds,
            said.float().numpy(),
            np.array(places, np.int64),
            weights.numpy()[:, 0],
        )
        # The others find what this one has masked, which stays.
        thresholds = np.full_like(thresholds, -np.inf)


def _recalled(
    ready: Sequence[Ready], newest: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each assistant its logits [ready, vocabulary] and weights [ready, 1]: one pass each."""
    recalled: list[tuple[torch.Tensor, torch.Tensor]] = []
    for decoder, members in _by_decoder(ready).items():
        places = [place for place, _ in members]
        seats = [recall.seat for _, recall in members]
        lengths = [ready[place].length for place in places]
        of_all = np.zeros((len(ready), 1), np.float32)
        of_all[places, 0] = [recall.weight for _, recall in members]
        weights = to_device(of_all, newest.device)
        if len(places) == len(ready):
            said = decoder.step(seats, newest, lengths)
        else:
            at = _index(places, newest)
            found = decoder.step(seats, newest[at], lengths)
            said = found.new_zeros(len(ready), found.shape[1]).index_copy_(0, at, found)
        recalled.append((said, weights))
    return recalled


def _index(places: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return to_device(np.array(places, np.int64), like.device)


def _by_decoder(ready: Sequence[Ready]) -> dict[Decoder, list[tuple[int, Recall]]]:
    found: dict[Decoder, list[tuple[int, Recall]]] = {}
    for place, one in enumerate(ready):
        for recall in one.recalls.members:
            found.setdefault(recall.decoder, []).append((place, recall))
    return found
