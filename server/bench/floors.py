"""What no implementation can beat: operations of an encoder, speed of a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from detectors.encoder import SentenceEncoder
from detectors.threads import torch_threads

_WIDTH = 1024
_COPIED = 1 << 27
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Floors:
    """Speeds of a device: of products in fp32 and in the encoder's type, and of reading memory."""

    flops_per_second: float
    encoder_flops_per_second: float
    bytes_per_second: float

    @classmethod
    def measure(cls, device: str) -> Floors:
        """Measure; on a CPU with one thread, since requests share the cores with the engine."""
        with torch_threads(1):
            encoder = torch.bfloat16 if device.startswith("cuda") else torch.float32
            return cls(
                _product_speed(device, torch.float32),
                _product_speed(device, encoder),
                _copy_speed(device),
            )


def encoder_flops(encoder: SentenceEncoder, texts: Sequence[str]) -> float:
    """Operations to encode one of the texts, on average, for a transformer with full attention.

    Per layer and token 2 * (4 h^2 + 2 h f) for hidden width h and inner width f, and per pair of
    tokens 4 h; embeddings and norms are left out.
    """
    config = encoder.config
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    total = 0.0
    for tokens in encoder.count_tokens(texts):
        total += tokens * 2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * hidden * tokens**2
    return total * int(config.num_hidden_layers) / len(texts)


def _product_speed(device: str, dtype: torch.dtype) -> float:
    left = torch.ones(_WIDTH, _WIDTH, device=device, dtype=dtype)
    return 2 * _WIDTH**3 / _best(device, lambda: left @ left)


def _copy_speed(device: str) -> float:
    """Bytes read and written a second, by copying."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / _best(device, lambda: target.copy_(source))


def _best(device: str, call: Callable[[], object]) -> float:
    """The least seconds of a few rounds."""
    seconds = []
    for _ in range(_ROUNDS):
        _wait(device)
        begun = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
