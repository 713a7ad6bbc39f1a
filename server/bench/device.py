"""`lethegate bench device`: what guarding costs on this machine's GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID

from detectors.encoder import DEFAULT_ENCODER
from guard.vocabulary import Vocabulary
from server.bench.device_encoder import bench_encoder
from server.bench.device_step import DeviceBatch, DeviceWorker
from server.bench.device_time import Stopwatch, cuda_device, kernels_of
from server.bench.figures import spread
from server.bench.spellings import invented_phrases
from server.bench.step_cost import Compiled, compile_phrases, floor_bytes, tempting_texts
from server.bench.vocabularies import tekken

METHOD = (
    "Tekken (131,072 tokens). A step is the V2 runner's whole `DeviceSteering.apply`: every row "
    "has one new token, all phrases of the policy are active in every row, the texts begin phrases "
    "and break off, the logits are random. `step_us` is the device's time between two events: "
    "caches are emptied before, and the host has launched everything before the device begins. "
    "`host_us` is the host's wall time for the call. Every measured step runs where torch raises "
    "an error if the host waits for the device, and no row may be closed. Kernels are counted by "
    "torch's profiler. The floor is `touched_us`, what must be touched at the measured copying "
    "speed, and `launches_us`, as many kernels that change one number. The encoder's times are "
    "wall time, tokenizer and the way back to the host included; its cosines compare bf16 here "
    "with fp32 on the CPU."
)
_SIZES = {"100": 100, "10k": 10_000, "1m": 1_000_000}
_PROFILED = 10
_WARM = 5


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What to measure. Policies of more than `largest` phrases are left out."""

    batches: tuple[int, ...] = (1, 64, 256)
    steps: int = 200
    largest: int = 10_000
    encoder: str = DEFAULT_ENCODER

    @property
    def sizes(self) -> dict[str, int]:
        """Phrases of each policy, by the suffix of its keys."""
        return {name: size for name, size in _SIZES.items() if size <= self.largest}


def bench_device(plan: DevicePlan, progress: Progress) -> dict[str, Any]:
    """Measure everything; gives the report's flat figures.

    Raises:
        DeviceMissing: there is no CUDA device.
        BenchError: a tokenizer is missing, or a step was not what it claims to be.
    """
    device = cuda_device()
    phrases = invented_phrases(max(plan.sizes.values()))
    vocabulary = Vocabulary(tekken().tokens)
    watch = Stopwatch(device)
    bandwidth = watch.bandwidth()
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device),
        "memory_gb_per_s": round(bandwidth / 1e9),
        "vocabulary": vocabulary.size,
        "steps": plan.steps,
        "method": METHOD,
    }
    task = progress.add_task("steps", total=len(plan.sizes) * (1 + len(plan.batches)))
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as state:
        worker = DeviceWorker(Path(state), vocabulary, max(plan.batches), device)
        for name, size in plan.sizes.items():
            compiled = compile_phrases(phrases[:size], vocabulary, Path(state))
            progress.advance(task)
            measured = _Policy(name, compiled, phrases[:size], bandwidth)
            figures |= _steps(plan, worker, measured, watch, (progress, task))
    return figures | bench_encoder(plan.encoder, device)


@dataclass(frozen=True, slots=True)
class _Policy:
    name: str
    compiled: Compiled
    phrases: Sequence[str]
    bandwidth: float


def _steps(
    plan: DevicePlan,
    worker: DeviceWorker,
    policy: _Policy,
    watch: Stopwatch,
    shown: tuple[Progress, TaskID],
) -> dict[str, Any]:
    length = 5 * plan.steps + _WARM + _PROFILED
    texts = tempting_texts(tekken(), policy.phrases, max(plan.batches), length, seed=1)
    figures: dict[str, Any] = {}
    for rows in plan.batches:
        suffix = f"{policy.name}_b{rows}"
        batch = DeviceBatch(worker, policy.compiled.digest, texts[:rows])
        figures |= _batch(suffix, plan, worker, batch, watch)
        forbidden = figures[f"forbidden_{suffix}"]
        touched = floor_bytes(policy.compiled.tables, worker.vocabulary, texts[:rows], forbidden)
        touched_us = 1e6 * touched / policy.bandwidth
        floor_us = touched_us + figures[f"launches_us_{suffix}"]
        figures[f"touched_us_{suffix}"] = round(touched_us, 6)
        figures[f"floor_ratio_{suffix}"] = round(figures[f"step_us_{suffix}"] / floor_us, 1)
        shown[0].advance(shown[1])
    return figures


def _batch(
    suffix: str, plan: DevicePlan, worker: DeviceWorker, batch: DeviceBatch, watch: Stopwatch
) -> dict[str, Any]:
    fresh = torch.randn(batch.rows, worker.vocabulary.size, device=worker.device)
    logits = fresh.clone()
    guarded = worker.guarded
    for _ in range(_WARM):
        batch.step(logits)
    torch.cuda.synchronize()
    worker.check(guarded + _WARM * batch.rows)
    left, forbidden = batch.left, worker.forbidden
    steps = watch.measure(
        lambda: batch.step(logits), plan.steps, between=lambda: logits.copy_(fresh)
    )
    ran = kernels_of(lambda: batch.step(logits), _PROFILED)
    taken = left - batch.left
    worker.check(guarded + (_WARM + taken) * batch.rows)
    one = torch.zeros(1, device=worker.device)

    def launches() -> None:
        for _ in range(round(ran.kernels)):
            one.add_(1)

    bare = watch.measure(launches, plan.steps)
    return {
        **spread(f"step_us_{suffix}", [step.device_us for step in steps]),
        **spread(f"host_us_{suffix}", [step.host_us for step in steps]),
        **spread(f"launches_us_{suffix}", [launch.device_us for launch in bare]),
        f"kernels_{suffix}": ran.kernels,
        f"copies_{suffix}": ran.copies,
        f"forbidden_{suffix}": round((worker.forbidden - forbidden) / taken, 1),
        **{f"{name}_us_{suffix}": round(us, 3) for name, us in ran.microseconds.items()},
    }
