"""Adapter to vLLM's V1 model runner (`vllm.v1.sample.logits_processor`), read at vLLM 0.32.

vLLM loads the class in its API process too, to validate parameters, so nothing heavy is imported
before `__init__`, which runs in the worker only. The runner calls `update_state` once per step with
what changed in the batch (removed, added, moved, in this order) and then `apply`; a row of the
logits is a position in the batch. Lists of output ids are live. Grammar, allowed tokens, bad
words, logit bias and min_tokens have been applied before, penalties and temperature come after;
neither can raise minus infinity. This runner refuses custom processors under speculative decoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.v1.sample.logits_processor.interface import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from guard.params import GuardParams
from guard.vllm_plugin.model import end_ids_of, vocabulary_of

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from guard.batch import Slot
    from guard.steering import Steering


class GuardLogitsProcessor(LogitsProcessor):
    """Steers the rows of requests that carry `GuardParams`; leaves all others untouched."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse malformed guard parameters at admission (a 400, not a broken batch)."""
        GuardParams.from_xargs(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        from guard.follower import Follower
        from guard.server_life import end_with_server

        state_dir = Path(os.environ["LETHEGATE_STATE_DIR"])
        self._steering: Steering = _steering(vllm_config, state_dir, device)
        # [row in the batch] -> slot
        self._slots: dict[int, Slot] = {}
        self._visible: Callable[[], Sequence[int] | None] = lambda: None
        self._follower = Follower(state_dir, "worker", self._steering.preload)
        self._follower.start()
        end_with_server()

    def is_argmax_invariant(self) -> bool:
        """Forbidding the likeliest token changes the greedy choice."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests into, through and out of the batch."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._leave(row)
        for row, params, prompt, output in batch_update.added:
            self._leave(row)
            self._enter(row, params, prompt or (), output)
        for source, target, direction in batch_update.moved:
            self._move(source, target, swap=direction is MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Forbid in place; rows without a slot are not touched. [rows, vocabulary] float32."""
        if self._slots:
            self._steering.apply(logits, self._slots.items(), self._visible())
        return logits

    def follow(self, runner: GPUModelRunner) -> None:
        """Know how far the runner has read each prompt; `guard.vllm_plugin.worker` tells."""
        lengths: torch.Tensor = runner.optimistic_seq_lens_cpu
        self._visible = lengths.tolist

    def _enter(
        self, row: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
    ) -> None:
        guard = GuardParams.from_xargs(params.extra_args)
        if guard is not None:
            self._slots[row] = self._steering.open_slot(
                guard, prompt, output, constrained=_is_constrained(params)
            )

    def _leave(self, row: int) -> None:
        slot = self._slots.pop(row, None)
        if slot is not None:
            self._steering.release(slot)

    def _move(self, source: int, target: int, *, swap: bool) -> None:
        moved, other = self._slots.pop(source, None), self._slots.pop(target, None)
        if moved is not None:
            self._slots[target] = moved
        if other is not None:
            if swap:
                self._slots[source] = other
            else:
                self._steering.release(other)


def _is_constrained(params: SamplingParams) -> bool:
    """Whether rules of the request's own may leave nothing but forbidden tokens."""
    return bool(
        params.allowed_token_ids
        or params.structured_outputs is not None
        or params.logit_bias
        or params.bad_words
    )


def _steering(vllm_config: VllmConfig, state_dir: Path, device: torch.device) -> Steering:
    from guard.ledger import LedgerWriter
    from guard.steering import Steering
    from guard.vllm_plugin.assistants import assistants_of

    model = vllm_config.model_config
    vocabulary = vocabulary_of(model)
    return Steering(
        state_dir / "snapshots",
        vocabulary,
        end_ids_of(model),
        LedgerWriter(state_dir / "facts"),
        assistants_of(vllm_config, state_dir, vocabulary, device),
    )
