"""Suffix sorting by induced sorting (SA-IS), linear in time also for texts full of duplicates.

Nong, Zhang and Chan, "Linear Suffix Array Construction by Almost Pure Induced-Sorting", 2009; the
arrangement of the loops follows the public-domain AtCoder Library. Twelve bytes per symbol beside
the text and the result at the most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at first call, cached on disk, without the GIL."""
    return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(function))


def suffix_array(ranks: npt.NDArray[np.int32], num_symbols: int) -> npt.NDArray[np.int32]:
    """The start of every suffix, in the order of the suffixes.

    Args:
        ranks: [n] int32 in 0 .. num_symbols - 1; n < 2**31. A suffix that is the beginning of
            another one comes before it.
        num_symbols: one more than the largest rank.
    """
    n = ranks.shape[0]
    if n < 2:
        return np.arange(n, dtype=np.int32)
    is_s, sum_l, sum_s = _classify(ranks, num_symbols)
    lms = _leftmost(is_s)
    suffixes = np.empty(n, np.int32)
    _induce(ranks, is_s, sum_l, sum_s, lms, suffixes)
    if lms.shape[0]:
        order, names, num_names = _name(ranks, is_s, lms, suffixes)
        if num_names < lms.shape[0]:
            # Only what the next level needs stays in memory while it is sorted.
            suffixes = np.empty(0, np.int32)
            order = lms[suffix_array(names, num_names)]
            suffixes = np.empty(n, np.int32)
        _induce(ranks, is_s, sum_l, sum_s, order, suffixes)
    return suffixes


@jit
def _classify(ranks: Array, num_symbols: int) -> Any:
    """Per suffix whether it is smaller than the next one, and where each symbol's parts begin."""
    n = ranks.shape[0]
    is_s = np.zeros(n, np.bool_)
    for i in range(n - 2, -1, -1):
        if ranks[i] == ranks[i + 1]:
            is_s[i] = is_s[i + 1]
        else:
            is_s[i] = ranks[i] < ranks[i + 1]
    sum_l = np.zeros(num_symbols + 1, np.int32)
    sum_s = np.zeros(num_symbols + 1, np.int32)
    for i in range(n):
        if is_s[i]:
            sum_l[ranks[i] + 1] += 1
        else:
            sum_s[ranks[i]] += 1
    for i in range(num_symbols):
        sum_s[i] += sum_l[i]
        sum_l[i + 1] += sum_s[i]
    return is_s, sum_l, sum_s


@jit
def _leftmost(is_s: Array) -> Any:
    count = 0
    for i in range(1, is_s.shape[0]):
        count += is_s[i] and not is_s[i - 1]
    lms = np.empty(count, np.int32)
    count = 0
    for i in range(1, is_s.shape[0]):
        if is_s[i] and not is_s[i - 1]:
            lms[count] = i
            count += 1
    return lms


@jit
def _induce(
    ranks: Array, is_s: Array, sum_l: Array, sum_s: Array, lms: Array, suffixes: Array
) -> None:
    """Sort all suffixes from the order of the leftmost smaller ones."""
    n = ranks.shape[0]
    suffixes[:] = -1
    place = sum_s.copy()
    for start in lms:
        symbol = ranks[start]
        suffixes[place[symbol]] = start
        place[symbol] += 1
    place[:] = sum_l
    suffixes[place[ranks[n - 1]]] = n - 1
    place[ranks[n - 1]] += 1
    for i in range(n):
        start = suffixes[i] - 1
        if start >= 0 and not is_s[start]:
            suffixes[place[ranks[start]]] = start
            place[ranks[start]] += 1
    place[:] = sum_l
    for i in range(n - 1, -1, -1):
        start = suffixes[i] - 1
        if start >= 0 and is_s[start]:
            symbol = ranks[start] + 1
            place[symbol] -= 1
            suffixes[place[symbol]] = start


@jit
def _name(ranks: Array, is_s: Array, lms: Array, suffixes: Array) -> Any:
    """Name the pieces between leftmost smaller suffixes by their order; equal pieces alike."""
    n, count = ranks.shape[0], lms.shape[0]
    number = np.full(n, -1, np.int32)
    for k in range(count):
        number[lms[k]] = k
    order = np.empty(count, np.int32)
    found = 0
    for i in range(n):
        if number[suffixes[i]] >= 0:
            order[found] = suffixes[i]
            found += 1
    names = np.empty(count, np.int32)
    name = 0
    names[number[order[0]]] = 0
    for k in range(1, count):
        left, right = np.int64(order[k - 1]), np.int64(order[k])
        left_end = np.int64(lms[number[left] + 1]) if number[left] + 1 < count else n
        right_end = np.int64(lms[number[right] + 1]) if number[right] + 1 < count else n
        same = left_end - left == right_end - right
        if same:
            while left < left_end and ranks[left] == ranks[right]:
                left += 1
                right += 1
            same = left < n and right < n and ranks[left] == ranks[right]
        name += not same
        names[number[order[k]]] = name
    return order, names, name + 1
