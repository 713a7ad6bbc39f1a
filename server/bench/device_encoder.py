"""The encoder on a GPU: what a prompt takes, and how far its bf16 is from fp32 on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detectors.benign import benign_prompts
from detectors.encoder import Encoder, load_encoder
from detectors.errors import EncoderUnavailable
from server.bench.errors import InputMissing
from server.bench.figures import spread

_BATCH = 64
_TIMES = 100


def bench_encoder(name: str, device: torch.device) -> dict[str, Any]:
    """Microseconds of a prompt alone and in a batch of 64, and agreement; flat figures.

    Raises:
        InputMissing: the encoder is not there.
    """
    prompts = benign_prompts()[: 4 * _BATCH]
    try:
        ours = load_encoder(name, device=str(device))
        exact = load_encoder(name, device="cpu")
    except EncoderUnavailable as error:
        raise InputMissing(str(error)) from None
    alone = times_us(ours, [[prompt] for prompt in prompts[:_TIMES]])
    batches = [prompts[first : first + _BATCH] for first in range(0, len(prompts), _BATCH)]
    together = [us / _BATCH for us in times_us(ours, batches * 5)]
    agreement = cosines(ours, exact, prompts)
    return {
        **spread("encoder_us_alone", alone),
        **spread("encoder_us_in_64", together),
        "encoder_cosine_median": round(float(np.median(agreement)), 6),
        "encoder_cosine_min": round(float(agreement.min()), 6),
        "encoder_prompts": len(prompts),
    }


def times_us(encoder: Encoder, batches: Sequence[Sequence[str]]) -> list[float]:
    """Wall time of each batch, tokenizer and the way back to the host included.

    All batches are encoded once before, so that nothing is compiled while it is timed.
    """
    for texts in batches[:20]:
        encoder.encode(texts)
    found = []
    for texts in batches:
        begin = time.perf_counter()
        encoder.encode(texts)
        found.append(1e6 * (time.perf_counter() - begin))
    return found


def cosines(one: Encoder, other: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """[len(texts)] cosine of each text's two embeddings."""
    pairs = [encoder.encode(texts).astype(np.float64) for encoder in (one, other)]
    found: npt.NDArray[np.float64] = np.einsum("ij,ij->i", *pairs)
    return found
