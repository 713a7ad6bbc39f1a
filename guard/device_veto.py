"""The veto's step on CPU tensors as the device does it: see `guard.veto`.

Nothing is kept from step to step: every row's run is read from the history and, behind it, from the
drafts that were fed in up to that row. So a rejected draft leaves no trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.device_policy import DevicePolicy, DeviceVeto
from guard.device_slots import SlotField, Step
from guard.device_vocabulary import TRANSPARENT, DeviceVocabulary
from guard.kernels import Array, jit
from guard.ledger import Counter
from tracing.successor_kernels import veto_rows

_POLICY = int(SlotField.POLICY)
_CLOSED = int(SlotField.CLOSED)
_VETOED = int(Counter.VETOED_TOKENS)
_TRANSPARENT = TRANSPARENT


def veto(step: Step, policy: DevicePolicy, table: DeviceVeto, vocabulary: DeviceVocabulary) -> None:
    """Take from the policy's rows what would complete a registered n-gram; after `follow`."""
    _veto(
        step.logits.numpy(),
        step.slot_of.numpy(),
        step.local.numpy(),
        step.inputs.numpy(),
        step.tokens.numpy(),
        step.prompt_len.numpy(),
        step.total_len.numpy(),
        step.slots.numpy(),
        step.report.numpy(),
        policy.id,
        vocabulary.pending.numpy(),
        (
            table.keys.numpy().view(np.uint64),
            table.starts.numpy(),
            table.successors.numpy(),
            table.buckets.numpy(),
            table.dense_keys.numpy(),
            table.dense.numpy(),
            table.lengths.numpy(),
            table.salt.numpy().view(np.uint64)[0],
            table.prefix_start.numpy(),
            table.prefix.numpy(),
        ),
    )


@jit
def _veto(
    logits: Array,
    slot_of: Array,
    local: Array,
    inputs: Array,
    tokens: Array,
    prompt_len: Array,
    total_len: Array,
    slots: Array,
    report: Array,
    policy: int,
    pending_of: Array,
    table: Any,
) -> None:
    keys, starts, successors, buckets, dense_keys, dense, lengths, salt = table[:8]
    longest = lengths[0]
    windows = np.zeros((slot_of.shape[0], longest), np.int64)
    filled = np.zeros(slot_of.shape[0], np.int64)
    ours = np.zeros(slot_of.shape[0], np.int64)
    count = 0
    for row in range(slot_of.shape[0]):
        slot = slot_of[row]
        if slot < 0 or slots[slot, _POLICY] != policy or slots[slot, _CLOSED]:
            continue
        ours[count] = row
        count += 1
        total = total_len[slot]
        drafts = row - local[row] + 1 - total  # where in `inputs` a place behind the history lies
        at = total + local[row]
        while at > 0 and filled[row] < longest:
            at -= 1
            token = tokens[slot, at] if at < total else inputs[drafts + at]
            if 0 <= token < pending_of.shape[0] and pending_of[token] != _TRANSPARENT:
                filled[row] += 1
                windows[row, longest - filled[row]] = token
            elif at < prompt_len[slot]:
                break
    found, _ = veto_rows(
        keys,
        starts,
        successors,
        buckets,
        dense_keys,
        dense,
        lengths,
        salt,
        table[8],
        table[9],
        windows,
        filled,
        ours[:count],
        ours[:count],
        logits.shape[1],
        logits,
        ours[:0],
    )
    report[_VETOED] += found
