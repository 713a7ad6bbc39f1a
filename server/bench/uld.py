"""`lethegate bench uld`: what an assistant costs per step, against the target and its floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from guard.uld.assistant import load_first_layers, load_model, num_layers
from guard.uld.decoder import Decoder
from guard.uld.slots import Seat
from guard.uld.subtracting import Recall, Recalls, Subtraction, subtract_rows
from guard.uld.texts import HostText
from server.bench.errors import InputMissing
from server.bench.figures import spread

BATCHES = (1, 8, 32)
_WARM = 3
_PROMPT_CHUNK = 2048
_CACHE = 32_768  # tokens, `assistant_cache_tokens` of a server that is not told otherwise
METHOD = (
    "One process, no server. target: a decode step of all N layers and the head, of the same model "
    "in the same slots (so both sides have the same kernels). assistant: all that a step of the "
    "worker does for its rows: reading the newest tokens, the assistant's pass, filter and "
    "subtraction. head: the head alone on as many rows. floor: K/N of (target - head), plus the "
    "head. Arms in turn within each step; wall-clock medians with extremes of the rounds' medians. "
    "step_ratio: (target + assistant) / target; floor_ratio: assistant / floor. prompt: how long a "
    "prompt that enters keeps the others waiting: read whole in one step, the longest step when it "
    "comes in chunks of 2,048 tokens (vLLM's usual), and when another one began the same; once per "
    "round, the assistant alone. Random weights unless a model is given: they cost the same."
)


@dataclass(frozen=True, slots=True)
class UldBenchPlan:
    """What to measure; `model` is a folder, None makes one with random weights.

    `text` tokens are in the cache when measuring begins; `steps` are measured in each of `rounds`.
    A prompt that enters has `prompt` tokens.
    """

    model: Path | None
    layers: int
    base_layers: int
    hidden: int
    vocabulary: int
    text: int
    prompt: int
    steps: int
    rounds: int
    dtype: str
    device: str


def bench_uld(plan: UldBenchPlan, progress: Progress) -> dict[str, Any]:
    """Measure every batch size; gives the report's flat figures.

    Raises:
        InputMissing: K is not below N.
        ModelUnreadable: the model cannot be loaded.
    """
    target, assistant, layers = _models(plan)
    task = progress.add_task("measuring", total=(len(BATCHES) + 1) * plan.rounds)
    figures: dict[str, Any] = {}
    prompts = []
    for number in range(plan.rounds):
        prompts.append(_read_prompt(assistant, plan, number))
        progress.update(task, advance=1, description="prompt")
    for name in prompts[0]:
        figures |= spread(f"prompt_{name}_ms", [1000 * seconds[name] for seconds in prompts])
    for batch in BATCHES:
        arms = _Arms(target, assistant, batch, plan)
        rounds = []
        for _ in range(plan.rounds):
            rounds.append(arms.measure(plan.steps))
            progress.update(task, advance=1, description=f"batch {batch}")
        arms.release()
        for name in ("target", "assistant", "head"):
            figures |= spread(f"batch{batch}_{name}_ms", [1000 * r[name] for r in rounds])
        share = plan.layers / layers
        floors = [share * (r["target"] - r["head"]) + r["head"] for r in rounds]
        ratios = [(r["target"] + r["assistant"]) / r["target"] for r in rounds]
        figures |= spread(f"batch{batch}_step_ratio", ratios)
        paired = zip(rounds, floors, strict=True)
        figures |= spread(f"batch{batch}_floor_ratio", [r["assistant"] / f for r, f in paired])
    return {
        **figures,
        "layers": plan.layers,
        "base_layers": layers,
        "model": "random" if plan.model is None else plan.model.name,
        "hidden": target.config.get_text_config().hidden_size,
        "vocabulary": target.config.get_text_config().vocab_size,
        "text": plan.text,
        "prompt": plan.prompt,
        "dtype": plan.dtype,
        "device": plan.device,
        "threads": torch.get_num_threads(),
        "rounds": plan.rounds,
        "method": METHOD,
    }


class _Arms:
    """A batch of texts in the caches of both models, one token longer with every step."""

    def __init__(self, target: Any, assistant: Any, batch: int, plan: UldBenchPlan) -> None:
        # Of the size that a server has, or there would be no graphs for what is padded.
        room = max(_CACHE, batch * (plan.text + plan.rounds * plan.steps + _WARM + 64))
        self._whole = Decoder(target, room, batch)
        self._seats = [Seat() for _ in range(batch)]
        decoder = Decoder(assistant, room, batch)
        self._width = target.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        shape = (batch, plan.text)
        prompts = torch.randint(self._width, shape, generator=generator).tolist()
        self._outputs: list[list[int]] = [[] for _ in prompts]
        self._texts = [list(prompt) for prompt in prompts]
        self._rows = [
            (
                row,
                row,
                Subtraction(plan.text, list(prompt), output, Recalls([Recall(decoder, 2.0)], 0.01)),
            )
            for row, (prompt, output) in enumerate(zip(prompts, self._outputs, strict=True))
        ]
        self._head = target.get_output_embeddings()
        self._hidden = torch.randn(
            batch, 1, self._head.weight.shape[1], dtype=target.dtype, device=target.device
        )
        self._device = target.device
        self.measure(_WARM)

    def measure(self, steps: int) -> dict[str, float]:
        """Median seconds of each arm."""
        seconds: dict[str, list[float]] = {"target": [], "assistant": [], "head": []}
        with torch.no_grad():
            for _ in range(steps):
                logits = self._timed(seconds["target"], self._target_step)
                self._timed(
                    seconds["assistant"], partial(subtract_rows, logits, self._rows, _never)
                )
                self._timed(seconds["head"], lambda: self._head(self._hidden))
                for text, output in zip(self._texts, self._outputs, strict=True):
                    token = (text[-1] * 31 + 7) % self._width
                    text.append(token)
                    output.append(token)
        return {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}

    def _target_step(self) -> torch.Tensor:
        for seat, text in zip(self._seats, self._texts, strict=True):
            self._whole.read(seat, HostText(text), len(text))
        newest = torch.tensor([text[-1] for text in self._texts], device=self._device)
        lengths = list(map(len, self._texts))
        return self._whole.step(self._seats, newest, lengths).float()

    def release(self) -> None:
        """Free the caches."""
        del self._whole, self._rows

    def _timed(self, seconds: list[float], work: Callable[[], Any]) -> Any:
        _synchronise(self._device)
        began = time.perf_counter()
        found = work()
        _synchronise(self._device)
        seconds.append(time.perf_counter() - began)
        return found


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _read_prompt(assistant: Any, plan: UldBenchPlan, seed: int) -> dict[str, float]:
    """Seconds of the longest step: whole, in chunks, and begun like one that was read."""
    decoder = Decoder(assistant, 3 * (plan.prompt + 64))
    width = assistant.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)

    def read(tokens: list[int], chunk: int) -> float:
        text, seat, longest = HostText(tokens), Seat(), 0.0
        for end in range(min(chunk, len(tokens)), len(tokens) + chunk, chunk):
            _synchronise(assistant.device)
            began = time.perf_counter()
            decoder.read(seat, text, min(end, len(tokens)))
            _synchronise(assistant.device)
            longest = max(longest, time.perf_counter() - began)
        return longest

    first, second = torch.randint(width, (2, plan.prompt), generator=generator).tolist()
    return {
        "whole": read(first, plan.prompt),
        "longest_chunk": read(second, _PROMPT_CHUNK),
        "shared": read(second, plan.prompt),
    }


def _never(row: int, error: Exception) -> None:
    raise error


def _models(plan: UldBenchPlan) -> tuple[Any, Any, int]:
    layers = plan.base_layers if plan.model is None else num_layers(plan.model)
    if not 1 <= plan.layers < layers:
        raise InputMissing(f"--layers must be in 1..{layers - 1}: the model has {layers} layers")
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[plan.dtype]
    if plan.model is not None:
        whole = load_model(plan.model, device=plan.device, dtype=dtype)
        cut = load_first_layers(plan.model, plan.layers, device=plan.device).to(dtype)
        return whole, cut, layers
    found = [_random(plan, depth, dtype) for depth in (layers, plan.layers)]
    return found[0], found[1], layers


def _random(plan: UldBenchPlan, layers: int, dtype: torch.dtype) -> Any:
    """A Llama of usual proportions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, plan.hidden // 64)
    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.hidden,
        intermediate_size=plan.hidden * 7 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        max_position_embeddings=8192,
        dtype=dtype,
    )
    return LlamaForCausalLM(config).to(plan.device, dtype).eval().requires_grad_(False)
