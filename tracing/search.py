"""The index's inner loops, compiled by numba; they hold no Python object and release the GIL.

The text of a segment is reversed: symbol 0 (a separator), then each document's symbols backwards,
each followed by a separator. The longest match that ends at a place of an output is then one search
for the output's last symbols, newest first, and needs no state from earlier places. Symbols of an
output are never 0, so no match crosses a document's border and no comparison leaves the text.

Arrays: `text` [n] uint16 or uint32; `suffixes` [n] int32; `symbols` [u], sorted, and `first`
[u + 1] int32: the suffixes that begin with symbols[i] are first[i] .. first[i + 1]; `buckets`
int32: the symbols whose value >> shift is b are buckets[b] .. buckets[b + 1]; `gate`:
`tracing.gate`; `dead` [n / 8] uint8: a bit per place of a withdrawn document, or empty where there
is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracing.gate import passes, run_hash
from tracing.sorting import Array, jit


@jit
def symbol_index(symbols: Array, buckets: Array, shift: int, symbol: int) -> Any:
    """The place of a symbol among the segment's, or -1."""
    bucket = np.int64(symbol) >> shift
    if bucket + 1 >= buckets.shape[0]:
        return -1
    low, end = np.int64(buckets[bucket]), np.int64(buckets[bucket + 1])
    high = end
    while low < high:
        middle = (low + high) >> 1
        if symbols[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    return low if low < end and symbols[low] == symbol else -1


@jit
def rank_symbols(text: Array, symbols: Array, buckets: Array, shift: int, ranks: Array) -> None:
    """Each place's symbol as its place among the segment's symbols; `ranks` [n] int32."""
    for i in range(text.shape[0]):
        ranks[i] = symbol_index(symbols, buckets, shift, text[i])


@jit
def seek(
    text: Array,
    suffixes: Array,
    low: int,
    high: int,
    query: Array,
    end: int,
    length: int,
    after: bool,
) -> Any:
    """The first rank in low .. high that is not before the query's last `length` symbols.

    With `after`, the first behind all suffixes that begin with them. Gives the rank and how many
    symbols its left and right neighbour share with the query; all suffixes share the first one.
    """
    left, right = 1, 1
    while low < high:
        middle = (low + high) >> 1
        place = np.int64(suffixes[middle])
        k = min(left, right)
        while k < length and text[place + k] == query[end - k]:
            k += 1
        if (k == length and not after) or (k < length and text[place + k] > query[end - k]):
            high, right = middle, k
        else:
            low, left = middle + 1, k
    return low, left, right


@jit
def is_dead(dead: Array, place: int) -> Any:
    """Whether a place belongs to a withdrawn document."""
    return dead.shape[0] > 0 and (dead[place >> 3] >> (place & 7)) & 1 != 0


@jit
def shared(text: Array, place: int, query: Array, end: int, length: int) -> Any:
    """How many symbols a suffix shares with the query, `length` at the most."""
    k = 0
    while k < length and text[place + k] == query[end - k]:
        k += 1
    return k


@jit
def longest(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    dead: Array,
    query: Array,
    end: int,
    length: int,
) -> Any:
    """The longest live match that ends at `end`, up to `length`, and a place that has it.

    The neighbours of the query's rank share the most with it, and a suffix shares less the farther
    off it is: the nearest live one on either side is exact.
    """
    symbol = symbol_index(symbols, buckets, shift, query[end])
    if symbol < 0:
        return 0, 0
    low, high = np.int64(first[symbol]), np.int64(first[symbol + 1])
    rank, before, behind = seek(text, suffixes, low, high, query, end, length, False)
    left, right = rank - 1, rank
    if dead.shape[0]:
        while left >= low and is_dead(dead, suffixes[left]):
            left -= 1
        while right < high and is_dead(dead, suffixes[right]):
            right += 1
        before = shared(text, suffixes[left], query, end, length) if left >= low else 0
        behind = shared(text, suffixes[right], query, end, length) if right < high else 0
    else:
        before = before if left >= low else 0
        behind = behind if right < high else 0
    if behind >= before:
        return behind, np.int64(suffixes[right]) if behind else 0
    return before, np.int64(suffixes[left])


@jit
def match_ends(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    gate: Array,
    dead: Array,
    depth: int,
    minimum: int,
    query: Array,
    lengths: Array,
) -> None:
    """Raise `lengths` [m] int32 to the longest match that ends at each place of an output.

    Only matches of at least `minimum` symbols count. A match grows by one symbol at the most per
    place, which bounds every search; while the text found goes on like the output, nothing has to
    be searched at all.
    """
    gated = minimum >= depth
    length, place = 0, 0
    for end in range(minimum - 1, query.shape[0]):
        if length and text[place - 1] == query[end]:
            length, place = length + 1, place - 1
        else:
            bound = min(end + 1, length + 1 if length else minimum)
            length = 0
            if not gated or passes(gate, run_hash(query, end, -1, depth)):
                length, place = longest(
                    text, suffixes, symbols, first, buckets, shift, dead, query, end, bound
                )
                if length < minimum:
                    length = 0
        if length > lengths[end]:
            lengths[end] = length


@jit
def match_rows(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    gate: Array,
    dead: Array,
    depth: int,
    minimum: int,
    rows: Array,
    sizes: Array,
    let_through: Array,
    lengths: Array,
) -> None:
    """Raise `lengths` [rows] int32 to the longest match that ends at each row's newest symbol.

    `rows` [rows, width] uint32 hold the last symbols, newest at the right; `sizes` how many of them
    are filled. `let_through` [rows] bool is the loop's own: the gate is asked for all rows first,
    so that the memory accesses overlap.
    """
    end = rows.shape[1] - 1
    gated = minimum >= depth
    for i in range(rows.shape[0]):
        enough = sizes[i] >= minimum
        if gated and enough:
            enough = passes(gate, run_hash(rows[i], end, -1, depth))
        let_through[i] = enough
    for i in range(rows.shape[0]):
        if let_through[i]:
            found, _ = longest(
                text, suffixes, symbols, first, buckets, shift, dead, rows[i], end, sizes[i]
            )
            if found >= minimum and found > lengths[i]:
                lengths[i] = found


@jit
def span_ranges(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    dead: Array,
    query: Array,
    ends: Array,
    lengths: Array,
    ranges: Array,
    counts: Array,
) -> None:
    """Where the spans that end at `ends` [s] with `lengths` [s] occur.

    `ranges` [s, 2] int64 become the suffixes' first and last (exclusive) rank, `counts` [s] int64
    the number of live ones. Linear in the occurrences only where something was withdrawn.
    """
    for i in range(ends.shape[0]):
        end, length = ends[i], lengths[i]
        ranges[i], counts[i] = 0, 0
        symbol = symbol_index(symbols, buckets, shift, query[end])
        if symbol < 0:
            continue
        low, high = np.int64(first[symbol]), np.int64(first[symbol + 1])
        begin, _, right = seek(text, suffixes, low, high, query, end, length, False)
        if begin == high or right < length:
            continue
        finish, _, _ = seek(text, suffixes, begin, high, query, end, length, True)
        ranges[i, 0], ranges[i, 1] = begin, finish
        counts[i] = finish - begin
        if dead.shape[0]:
            for rank in range(begin, finish):
                counts[i] -= is_dead(dead, suffixes[rank])


@jit
def whole_documents(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    dead: Array,
    query: Array,
    end: int,
    length: int,
    found: Array,
) -> Any:
    """How many live documents are, as a whole, the query's last `length` symbols.

    Their places go into `found` [k] int64 as far as it holds them.
    """
    pattern = np.zeros(length + 1, np.int64)
    for k in range(length):
        pattern[1 + k] = query[end - length + 1 + k]
    symbol = symbol_index(symbols, buckets, shift, pattern[length])
    if symbol < 0:
        return 0
    low, high = np.int64(first[symbol]), np.int64(first[symbol + 1])
    begin, _, _ = seek(text, suffixes, low, high, pattern, length, length + 1, False)
    finish, _, _ = seek(text, suffixes, begin, high, pattern, length, length + 1, True)
    count = 0
    for rank in range(begin, finish):
        place = np.int64(suffixes[rank])
        if text[place - 1] == 0 and not is_dead(dead, place):
            if count < found.shape[0]:
                found[count] = place
            count += 1
    return count


@jit
def match_short(
    text: Array,
    suffixes: Array,
    symbols: Array,
    first: Array,
    buckets: Array,
    shift: int,
    gate: Array,
    dead: Array,
    depth: int,
    minimum: int,
    short: int,
    query: Array,
    lengths: Array,
) -> None:
    """Raise `lengths` [m] int32 to the longest whole document, below `minimum`, that ends there.

    Bit k of `short` tells whether there are documents of k symbols.
    """
    none = np.empty(0, np.int64)
    for end in range(query.shape[0]):
        for length in range(min(minimum - 1, end + 1), lengths[end], -1):
            if not (short >> length) & 1:
                continue
            if not passes(gate, run_hash(query, end, -1, min(length, depth))):
                continue
            if whole_documents(
                text, suffixes, symbols, first, buckets, shift, dead, query, end, length, none
            ):
                lengths[end] = length
                break
