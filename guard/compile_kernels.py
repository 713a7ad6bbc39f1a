"""The compiler's inner loops: trie, links and the ranges of the vocabulary that finish phrases.

Compiled by numba like `guard.kernels`; array arguments are those of `guard.automaton.Tables` and
`guard.stream.Streams`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.kernels import Array, find, jit, step
from guard.stream import WORD_END, WORD_START

_START = WORD_START
_END = WORD_END
_BLOCK = 64


@jit
def pack(
    patterns: Array, start: Array, whole: Array, chosen: Array, depth: int, out: Array
) -> None:
    """The chosen patterns' bytes 8 * depth .. 8 * depth + 8 as numbers that sort like them.

    Behind its end a pattern goes on with a zero, which is less than any symbol, and with 1 or 2 for
    `whole`; so no two different patterns have the same bytes.
    """
    for i in range(chosen.shape[0]):
        p = chosen[i]
        at, end = start[p] + 8 * depth, start[p + 1]
        number = np.uint64(0)
        for k in range(8):
            number <<= np.uint64(8)
            if at + k < end:
                number |= np.uint64(patterns[at + k])
            elif at + k == end + 1:
                number |= np.uint64(2 if whole[p] else 1)
        out[i] = number


@jit
def gather(patterns: Array, start: Array, chosen: Array, new_start: Array, out: Array) -> None:
    """Write the chosen patterns one after the other."""
    for i in range(chosen.shape[0]):
        low = start[chosen[i]]
        for k in range(new_start[i + 1] - new_start[i]):
            out[new_start[i] + k] = patterns[low + k]


@jit
def row_starts(keys: Array, starts: Array) -> None:
    """Where each key begins in sorted keys below n; `starts` [n + 1], the last is the end."""
    key = 0
    for i in range(keys.shape[0]):
        while key <= keys[i]:
            starts[key] = i
            key += 1
    while key < starts.shape[0]:
        starts[key] = keys.shape[0]
        key += 1


@jit
def build_trie(
    patterns: Array, start: Array, label: Array, parent: Array, end: Array, depth_start: Array
) -> None:
    """Fill a trie in breadth-first order from sorted, distinct patterns.

    `depth_start` holds the first state id of every depth and is advanced in place; `end[p]`
    becomes the state of pattern p.
    """
    path = np.zeros(depth_start.shape[0] + 1, np.int64)
    for p in range(start.shape[0] - 1):
        length = start[p + 1] - start[p]
        shared = _shared(patterns, start, p)
        for depth in range(shared, length):
            state = depth_start[depth + 1]
            depth_start[depth + 1] += 1
            label[state] = patterns[start[p] + depth]
            parent[state] = path[depth]
            path[depth + 1] = state
        end[p] = path[length]


@jit
def count_states(patterns: Array, start: Array, counts: Array) -> None:
    """Number of trie states per depth, into `counts` [longest pattern + 1]."""
    counts[0] = 1
    for p in range(start.shape[0] - 1):
        for depth in range(_shared(patterns, start, p), start[p + 1] - start[p]):
            counts[depth + 1] += 1


@jit
def _shared(patterns: Array, start: Array, p: int) -> Any:
    """Length of the common prefix of pattern p and the one before it."""
    if p == 0:
        return 0
    length = min(start[p] - start[p - 1], start[p + 1] - start[p])
    for i in range(length):
        if patterns[start[p - 1] + i] != patterns[start[p] + i]:
            return i
    return length


@jit
def build_links(
    first_child: Array,
    label: Array,
    parent: Array,
    ends: Array,
    fail: Array,
    out_state: Array,
) -> Any:
    """Failure links, and per state the nearest suffix state (itself first) where a phrase ends.

    States are worked on in blocks that hold no state with its parent. A link leads at least one
    character up from the parent's, so what a block reads of other states' links was there before.
    In a large trie every look at a state waits for memory, so a block asks for all that it is going
    to look at before it looks; the sum of that is returned so that it is really read.
    """
    at = np.zeros(_BLOCK, np.int64)
    low = np.zeros(_BLOCK, np.int64)
    todo = np.zeros(_BLOCK, np.int64)
    size, begin, asked = parent.shape[0], 1, 0
    while begin < size:
        end, count = begin, 0
        while end < size and end - begin < _BLOCK and parent[end] < begin:
            if parent[end]:
                at[count], todo[count] = fail[parent[end]], end
                count += 1
            end += 1
        while count:
            for i in range(count):
                low[i] = first_child[at[i]]
            for i in range(count):
                asked += label[min(low[i], size - 1)]
            i = 0
            while i < count:
                state = todo[i]
                found = find(label, low[i], np.int64(first_child[at[i] + 1]), label[state])
                if found or not at[i]:
                    fail[state] = found
                    count -= 1
                    at[i], low[i], todo[i] = at[count], low[count], todo[count]
                else:
                    at[i] = fail[at[i]]
                    i += 1
        for state in range(begin, end):
            out_state[state] = state if ends[state] else out_state[fail[state]]
        begin = end
    return asked


@jit
def nearest(fail: Array, marked: Array, result: Array) -> None:
    """Per state the nearest suffix state, itself first, that is marked; else 0."""
    for state in range(1, marked.shape[0]):
        result[state] = state if marked[state] else result[fail[state]]


@jit
def find_inside(
    first_child: Array,
    label: Array,
    fail: Array,
    out_state: Array,
    phrase_open: Array,
    phrase_any: Array,
    body: Array,
    start: Array,
    order: Array,
    out_phrase: Array,
    out_token: Array,
) -> Any:
    """All (phrase, token) pairs where the phrase lies inside the token's body.

    Bodies begin without a word border, so a whole-word phrase at the very start is not found here
    (`initial` ranges cover it). A pair may be written twice. Returns the number of pairs; see
    `build_entries` for what happens when there is no room.
    """
    count = 0
    room = out_phrase.shape[0]
    for i in range(order.shape[0]):
        state = 0
        for k in range(start[i], start[i + 1]):
            state = step(first_child, label, fail, state, body[k])
            border = k + 1 == start[i + 1] or body[k + 1] == _END
            found = out_state[state]
            while found:
                if phrase_any[found] >= 0:
                    if count < room:
                        out_phrase[count] = phrase_any[found]
                        out_token[count] = order[i]
                    count += 1
                if border and phrase_open[found] >= 0:
                    if count < room:
                        out_phrase[count] = phrase_open[found]
                        out_token[count] = order[i]
                    count += 1
                found = out_state[fail[found]]
    return count


@jit
def find_heads(body: Array, start: Array, heads: Array) -> None:
    """Per two bytes, b0 * 256 + b1, the first of the sorted bodies that is not less than them.

    `heads` [65537]; the last is the number of bodies.
    """
    at, count = 0, start.shape[0] - 1
    for head in range(heads.shape[0] - 1):
        while at < count and _is_below(body, start[at], start[at + 1], head):
            at += 1
        heads[head] = at
    heads[heads.shape[0] - 1] = count


@jit
def _is_below(body: Array, start: int, end: int, head: int) -> Any:
    if start == end or body[start] < head >> 8:
        return True
    if body[start] > head >> 8:
        return False
    return start + 1 == end or body[start + 1] < head & 0xFF


@jit
def bodies_with(
    body: Array, start: Array, heads: Array, keys: Array, low: int, high: int, lead: int, cap: int
) -> Any:
    """The range (first, last) of sorted bodies that begin with `lead + keys[low:high]`.

    `lead` is one byte put in front, or -1. With `cap` 3 only those that equal the key or go on with
    a word border, with 256 all. The key is not empty.
    """
    first_byte = lead if lead >= 0 else np.int64(keys[low])
    second = low if lead >= 0 else low + 1
    if second < high:
        head = first_byte << 8 | np.int64(keys[second])
        left, end = heads[head], heads[head + 1]
    else:
        # The body that is this one byte stands in front of all that go on from it.
        left, end = heads[max((first_byte << 8) - 1, 0)], heads[(first_byte + 1) << 8]
    right = end
    while left < right:
        middle = (left + right) >> 1
        if _less(body, start[middle], start[middle + 1], keys, low, high, lead, 0):
            left = middle + 1
        else:
            right = middle
    first, right = left, end
    if first == end or not _begins(body, start[first], start[first + 1], keys, low, high, lead):
        return first, first
    while left < right:
        middle = (left + right) >> 1
        if _less(body, start[middle], start[middle + 1], keys, low, high, lead, cap):
            left = middle + 1
        else:
            right = middle
    return first, left


@jit
def _begins(body: Array, start: int, end: int, keys: Array, low: int, high: int, lead: int) -> Any:
    if end - start < high - low + (lead >= 0):
        return False
    if lead >= 0:
        if body[start] != lead:
            return False
        start += 1
    same = 0
    while same < high - low and body[start + same] == keys[low + same]:
        same += 1
    return same == high - low


@jit
def _less(
    body: Array, start: int, end: int, keys: Array, low: int, high: int, lead: int, cap: int
) -> Any:
    offset = start
    if lead >= 0:
        if offset == end:
            return True
        if body[offset] != lead:
            return body[offset] < lead
        offset += 1
    for k in range(low, high):
        if offset == end:
            return True
        if body[offset] != keys[k]:
            return body[offset] < keys[k]
        offset += 1
    return cap > 0 if offset == end else body[offset] < cap


@jit
def build_entries(
    patterns: Array,
    start: Array,
    whole: Array,
    states: Array,
    parent: Array,
    body: Array,
    body_start: Array,
    heads: Array,
    depths: Array,
    out: Array,
) -> Any:
    """All entries (state, phrase, low, high): in `state`, bodies low..high complete the phrase.

    For every way to cut a pattern at a character, the bodies that begin with the rest (and, for a
    whole word, end there or go on with a border) are one range of the sorted vocabulary. `out`
    [room, 5] int32, the last column the state's depth; `depths`, zero before, becomes the number of
    entries of every depth. Returns the number of entries; when that is more than `out` holds, only
    the first are written and the caller comes again with more room.
    """
    count = 0
    room = out.shape[0]
    for p in range(start.shape[0] - 1):
        state = parent[states[p]]
        cap = 3 if whole[p] else 256
        for cut in range(start[p + 1] - 1, start[p], -1):
            symbol = patterns[cut]
            before = patterns[cut - 1]
            at_char = symbol & 0xC0 != 0x80 and before > _END
            if at_char:
                rest = cut + 1 if symbol <= _END else cut
                for lead in (-1, 0x20):
                    if lead == 0x20 and before != 0x20:
                        continue
                    low = rest if lead < 0 else cut
                    first, last = bodies_with(
                        body, body_start, heads, patterns, low, start[p + 1], lead, cap
                    )
                    if first < last:
                        depth = cut - start[p]
                        depths[depth] += 1
                        if count < room:
                            out[count, 0] = state
                            out[count, 1] = p
                            out[count, 2] = first
                            out[count, 3] = last
                            out[count, 4] = depth
                        count += 1
            state = parent[state]
    return count


@jit
def order_entries(found: Array, place: Array, states: Array, entries: Array) -> None:
    """Sort what `build_entries` found by state, those of a state as they are.

    States of one depth were met in order, so each depth only has to be kept apart: `place` holds
    where its entries begin and is advanced in place.
    """
    for i in range(found.shape[0]):
        at = place[found[i, 4]]
        place[found[i, 4]] = at + 1
        states[at] = found[i, 0]
        entries[at] = found[i, 1:4]


@jit
def build_initial(
    patterns: Array,
    start: Array,
    whole: Array,
    body: Array,
    body_start: Array,
    heads: Array,
    out: Array,
) -> None:
    """Per pattern the range of bodies that begin with it; `out` [n, 2] int32, zero before.

    Patterns that need no word border in front are left out: they lie inside those bodies.
    """
    for p in range(out.shape[0]):
        if patterns[start[p]] == _START:
            low, high = start[p] + 1, start[p + 1]
            cap = 3 if whole[p] else 256
            out[p, 0], out[p, 1] = bodies_with(
                body, body_start, heads, patterns, low, high, -1, cap
            )
