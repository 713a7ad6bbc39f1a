"""Adapter to vLLM's V2 model runner (`vllm.v1.worker.gpu.sample.logits_processor`), at vLLM 0.32.

vLLM loads the class in its API process too, to validate parameters, so nothing heavy is imported
before `__init__`, which runs in the worker only. A request is known by its slot: `add_request` is
called when it enters one, new or resumed, and nothing is when it leaves. The tokens of all slots
are on the device (`all_token_ids`, `total_len`), its newest ones only there; a slot's history is
there from `apply_staged_writes` on, the whole prompt even while it is prefilled in chunks. `apply`
is called once or, under speculative decoding, several times in a step, with all rows of some
requests: logit bias, penalties, bad words and grammar have been applied, temperature and forced
ends of a thinking budget come after.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor

from guard.params import GuardParams
from guard.vllm_plugin.model import end_ids_of, vocabulary_of

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcRequestState

    from guard.device_steering import DeviceSteering


class GuardLogitsProcessor(LogitsProcessor):
    """Steers the rows of requests that carry `GuardParams`; leaves all others untouched."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse malformed guard parameters at admission (a 400, not a broken batch)."""
        GuardParams.from_xargs(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        from guard.follower import Follower
        from guard.server_life import end_with_server
        from guard.uld.device_subtracting import Lengths

        state_dir = Path(os.environ["LETHEGATE_STATE_DIR"])
        self._requests, self._lengths = req_states, Lengths
        self._prompts: dict[int, Sequence[int]] = {}
        self._steering: DeviceSteering = _steering(vllm_config, req_states, state_dir)
        self._follower = Follower(state_dir, "worker", self._steering.preload)
        self._follower.start()
        end_with_server()

    def announce(self, prompts: Iterable[tuple[SamplingParams, Sequence[int]]]) -> None:
        """The tokens of the requests that enter in this step; `guard.vllm_plugin.worker` tells.

        Without, assistants read the beginning that requests share once for each.
        """
        self._prompts = {id(params): tokens for params, tokens in prompts}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """A request has entered a slot; whatever was there has gone."""
        guard = GuardParams.from_xargs(sampling_params.extra_args)
        if guard is None:
            self._steering.leave_slot(req_idx)
            return False
        known = tuple(self._prompts.get(id(sampling_params), ()))
        self._steering.open_slot(req_idx, guard, known)
        return True

    def apply_staged_writes(self) -> None:
        """Bring new slots to the device; vLLM has brought their tokens there."""
        self._steering.flush()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Forbid in place; rows without a slot are not touched. [rows, vocabulary] float32."""
        self._steering.apply(
            logits,
            ctx.idx_mapping_np,
            self._lengths(ctx.seq_lens_upper_bound_np, self._requests.prefill_len.np),
            slot_of=ctx.expanded_idx_mapping,
            local=ctx.expanded_local_pos,
            inputs=ctx.input_ids,
            tokens=self._requests.all_token_ids.gpu,
            prompt_len=self._requests.prompt_len.gpu,
            total_len=self._requests.total_len.gpu,
        )
        return logits


def _steering(
    vllm_config: VllmConfig, req_states: LogitsProcRequestState, state_dir: Path
) -> DeviceSteering:
    from guard.device_steering import DeviceSteering
    from guard.ledger import LedgerWriter
    from guard.vllm_plugin.assistants import assistants_of

    model = vllm_config.model_config
    vocabulary = vocabulary_of(model)
    return DeviceSteering(
        state_dir / "snapshots",
        vocabulary,
        end_ids_of(model),
        LedgerWriter(state_dir / "facts"),
        num_slots=req_states.max_num_reqs,
        device=req_states.device,
        assistants=assistants_of(vllm_config, state_dir, vocabulary, req_states.device),
    )
