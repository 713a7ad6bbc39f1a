"""A vocabulary as tensors, so that a GPU can read a token's text without asking the host.

Everything a token can add to the stream is a *run*: its body; for tokens that begin inside a
character, what follows once one, two or three bytes have finished that character; and the folded
form of every code point. All runs lie in one set of arrays. A character that was split over tokens
is then put together with shifts and looked up, never decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from guard.stream import CharClass, Streams
from guard.vocabulary import Vocabulary, bodies_of

TRANSPARENT = -1
NO_TAIL = -1
MAX_TAILS = 3
CODE_POINTS = 0x110000

# Han, Hangul syllables, private use, unassigned planes: they fold to themselves, in no word.
_PLAIN = (
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xAC00, 0xD7A4),
    range(0xE000, 0xF900),
    range(0x20000, 0x2F800),
    range(0x2FA20, 0x31350),
    range(0x32400, 0xE0000),
    range(0xE1000, CODE_POINTS),
)
_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True)
class DeviceVocabulary:
    """V tokens, C of them beginning inside a character; R = V + 3 C + 0x110000 runs.

    Attributes:
        run_bytes: [total] uint8, and run_start [R + 1] int32: run r is the stream
            run_bytes[run_start[r] : run_start[r + 1]]. Token t is run t; the c-th continuing
            token without its first 1, 2, 3 bytes is run V + 3 c .. V + 3 c + 2; code point p is
            run V + 3 C + p.
        run_first, run_last: [R] uint8 `CharClass`.
        pending: [V + 3 C] int32, the bytes a token or tail leaves unfinished (`pack_pending`);
            `TRANSPARENT` for a special token.
        head: [V] int32, the continuation bytes a token begins with (`pack_head`).
        tail: [V] int32, the token's place c among the continuing ones, or `NO_TAIL`.
        continuing: [C] int32 token ids.
        weight: [V] int32, bytes that the token adds to any stream at least.
        order: [k] int32 token ids sorted by body.
    """

    run_bytes: torch.Tensor
    run_start: torch.Tensor
    run_first: torch.Tensor
    run_last: torch.Tensor
    pending: torch.Tensor
    head: torch.Tensor
    tail: torch.Tensor
    continuing: torch.Tensor
    weight: torch.Tensor
    order: torch.Tensor

    @property
    def size(self) -> int:
        """V."""
        return int(self.head.shape[0])

    @property
    def num_continuing(self) -> int:
        """C."""
        return int(self.continuing.shape[0])

    @classmethod
    def build(cls, vocabulary: Vocabulary) -> DeviceVocabulary:
        """The tensors on the CPU; `to` brings them to a device."""
        size = vocabulary.size
        raw = [vocabulary.raw(token) for token in range(size)]
        continuing = [t for t, one in enumerate(raw) if _leading(one[:1])]
        tails, tail_pending = bodies_of(
            [raw[t][used:] for t in continuing for used in range(1, MAX_TAILS + 1)]
        )
        place = np.full(size, NO_TAIL, np.int32)
        place[continuing] = np.arange(len(continuing))
        pending = [
            pack_pending(vocabulary.pending_of(t)) if raw[t] else TRANSPARENT for t in range(size)
        ]
        bodies = vocabulary.bodies
        run_bytes, run_start, run_first, run_last = _concatenate(
            [bodies, tails, folded_code_points()]
        )
        return cls(
            run_bytes=run_bytes,
            run_start=run_start,
            run_first=run_first,
            run_last=run_last,
            pending=_int32([*pending, *map(pack_pending, tail_pending)]),
            head=_int32([pack_head(one) for one in raw]),
            tail=_int32(place),
            continuing=_int32(continuing),
            weight=_int32(vocabulary.weight),
            order=_int32(vocabulary.order),
        )

    def to(self, device: torch.device) -> DeviceVocabulary:
        """The same on a device."""
        return DeviceVocabulary(*(getattr(self, f.name).to(device) for f in fields(self)))


def pack_pending(pending: bytes) -> int:
    """Up to three unfinished bytes as one number, the lead byte lowest; 0 for none."""
    return int.from_bytes(pending, "little")


def pack_head(raw: bytes) -> int:
    """The continuation bytes (at most 3) that a token begins with.

    Bits 0-1 count them, bit 2 says that the token has no other byte, then six bits for each.
    """
    head = raw[: _leading(raw)]
    bits = sum((byte & 0x3F) << 3 + 6 * i for i, byte in enumerate(head))
    return len(head) | (len(head) == len(raw)) << 2 | bits


@lru_cache(maxsize=1)
def folded_code_points() -> Streams:
    """The bodies of all code points; a surrogate has none."""
    parts: list[Streams] = []
    done = 0
    for plain in _PLAIN:
        parts += _folded(range(done, plain.start)), _unfolded(plain)
        done = plain.stop
    flat, start, first, last = (a.numpy() for a in _concatenate(parts))
    return Streams(flat, start.astype(np.int64), first, last)


def _folded(points: range) -> Streams:
    return bodies_of([b"" if p in _SURROGATES else chr(p).encode() for p in points])[0]


def _unfolded(points: range) -> Streams:
    other = np.full(len(points), CharClass.OTHER, np.uint8)
    text = np.frombuffer("".join(map(chr, points)).encode(), np.uint8)
    # All of them on one side of the basic plane, so all equally long.
    return Streams(text, np.arange(len(points) + 1) * len(chr(points[0]).encode()), other, other)


def _leading(raw: bytes) -> int:
    """How many continuation bytes a run begins with, at most three."""
    count = 0
    while count < min(len(raw), MAX_TAILS) and 0x80 <= raw[count] < 0xC0:
        count += 1
    return count


def _concatenate(parts: Sequence[Streams]) -> list[torch.Tensor]:
    """Bytes, start, first and last of several lots of runs, one behind the other."""
    offsets = np.cumsum([0, *(len(p.bytes) for p in parts)])
    start = [p.start[:-1] + offset for p, offset in zip(parts, offsets[:-1], strict=True)]
    return [
        torch.from_numpy(np.concatenate([p.bytes for p in parts])),
        _int32(np.concatenate([*start, offsets[-1:]])),
        torch.from_numpy(np.concatenate([p.first for p in parts])),
        torch.from_numpy(np.concatenate([p.last for p in parts])),
    ]


def _int32(numbers: Sequence[int] | npt.NDArray[np.integer]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(numbers, np.int32).copy())
