"""Reading text on CPU tensors as the device does it: the trie, runs, and split characters."""

from __future__ import annotations

from typing import Any

from guard.device_policy import DevicePolicy
from guard.device_vocabulary import TRANSPARENT, DeviceVocabulary
from guard.kernels import Array, jit, walk
from guard.stream import CharClass

_TRANSPARENT = TRANSPARENT
_OTHER = int(CharClass.OTHER)


def trie_of(policy: DevicePolicy) -> tuple[Array, Array, Array]:
    """The trie's arrays, as the loops take them."""
    tables = policy.tables
    return tables.first_child.numpy(), tables.label.numpy(), tables.fail.numpy()


def runs_of(vocabulary: DeviceVocabulary) -> tuple[Array, Array, Array, Array]:
    """The runs' arrays, as the loops take them."""
    return (
        vocabulary.run_bytes.numpy(),
        vocabulary.run_start.numpy(),
        vocabulary.run_first.numpy(),
        vocabulary.run_last.numpy(),
    )


@jit
def begin(
    tokens: Array, prompt_len: int, total: int, reach: int, pending_of: Array, weight: Array
) -> Any:
    """Where to begin reading a history so that nothing a phrase can reach is left out."""
    found = 0
    at = total
    while at > 0 and found <= reach:
        token = tokens[at - 1]
        known = 0 <= token < weight.shape[0] and pending_of[token] != _TRANSPARENT
        if known:
            found += weight[token]
        elif at <= prompt_len:
            break
        at -= 1
    return at


@jit
def take(
    trie: Any,
    runs: Any,
    pending_of: Array,
    head_of: Array,
    tail_of: Array,
    state: int,
    before: int,
    pending: int,
    token: int,
) -> Any:
    """State, class and pending bytes after one token."""
    if not 0 <= token < head_of.shape[0] or pending_of[token] == _TRANSPARENT:
        return state, before, pending
    if pending:
        head = head_of[token]
        count, need = head & 3, missing(pending)
        if count and _goes_on(pending, head):
            if count >= need:
                point = code_point(pending, head)
                tail = head_of.shape[0] + 3 * tail_of[token] + need - 1
                state, before = _read(trie, runs, state, before, pending_of.shape[0] + point)
                state, before = _read(trie, runs, state, before, tail)
                return state, before, pending_of[tail]
            if head & 4:
                return state, before, _joined(pending, head)
        # The character stays broken: a replacement character, which is in no phrase.
        state, before = 0, _OTHER
    state, before = _read(trie, runs, state, before, token)
    return state, before, pending_of[token]


@jit
def _read(trie: Any, runs: Any, state: int, before: int, run: int) -> Any:
    first_child, label, fail = trie
    body, start, first, last = runs
    low, high = start[run], start[run + 1]
    if low == high:
        return state, before
    state = walk(first_child, label, fail, state, before, body, low, high, first[run])
    return state, last[run]


@jit
def _held(pending: int) -> Any:
    """How many bytes are pending."""
    return 1 + (pending > 0xFF) + (pending > 0xFFFF)


@jit
def missing(pending: int) -> Any:
    """How many bytes the pending character still needs."""
    lead = pending & 0xFF
    return 2 + (lead >= 0xE0) + (lead >= 0xF0) - _held(pending)


@jit
def _goes_on(pending: int, head: int) -> Any:
    """Whether the head's first byte may follow: some lead bytes narrow the second byte."""
    if pending > 0xFF:
        return True
    second = 0x80 | head >> 3 & 0x3F
    if pending == 0xE0:
        return second >= 0xA0
    if pending == 0xED:
        return second < 0xA0
    if pending == 0xF0:
        return second >= 0x90
    return pending != 0xF4 or second < 0x90


@jit
def is_finishing(pending: int, head: int) -> Any:
    """Whether a token with this head finishes the pending character."""
    return (head & 3) >= missing(pending) and _goes_on(pending, head)


@jit
def code_point(pending: int, head: int) -> Any:
    """The code point that the pending bytes and the head finish."""
    lead = pending & 0xFF
    held, need = _held(pending), missing(pending)
    point = lead & (0x1F if lead < 0xE0 else 0x0F if lead < 0xF0 else 0x07)
    for i in range(1, held):
        point = point << 6 | pending >> 8 * i & 0x3F
    for i in range(need):
        point = point << 6 | head >> 3 + 6 * i & 0x3F
    return point


@jit
def _joined(pending: int, head: int) -> Any:
    """The pending bytes with all of the head behind them."""
    held = _held(pending)
    for i in range(head & 3):
        pending |= (0x80 | head >> 3 + 6 * i & 0x3F) << 8 * (held + i)
    return pending
