"""`lethegate bench classifier`: what judging a prompt costs, by how many prompts are registered."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry
from rich.progress import Progress

from detectors.encoder import SentenceEncoder, load_encoder
from guard.decision import Decision
from guard.follower import ActivePointer
from server.bench.classifier_registry import innocent_prompts, write_registry
from server.bench.errors import ArmInvalid
from server.bench.figures import spread
from server.bench.floors import Floors, encoder_flops
from server.metrics.gateway import GatewayMetrics
from server.screening import CPU_BATCH, GPU_BATCH, Screening
from server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METHOD = (
    "The screening of one API process, without HTTP, on real snapshots. Registered are questions "
    "about invented authors (the first `encoded`) and random unit vectors (all others: they cost "
    "as much to compare), 100 per target, each target with one name. Asked are innocent prompts of "
    "one window, numbered so that none is remembered. alone: one after the other; at 64: 64 tasks "
    "that ask without a pause, time of the whole divided by the number of prompts; cached: one "
    "prompt again and again. product: the comparison alone, of one window and of 64 windows (per "
    "window), without encoder and names. loop_delay: how much later than asked a sleep of 1 ms on "
    "the event loop ends. Floors: the encoder's operations and the product's bytes or operations, "
    "at the speeds of a large matrix product and of a copy, measured in the same run (one thread "
    "on a CPU; bytes count above 256 MB, what is smaller may be cached). memory_anonymous counts "
    "what the process has of its own since before the first registry, memory_mapped the snapshot's "
    "pages, which processes share."
)
CONCURRENCY = 64
_TICK_SECONDS = 0.001
_LEAST = 10
_CACHED_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class ClassifierBenchPlan:
    """What to measure: registries of `sizes` prompts, `prompts` prompts each alone and at 64.

    `seconds` bounds each of the two, so that a slow machine asks fewer prompts.
    """

    sizes: Sequence[int]
    encoder: str
    device: str | None
    prompts: int = 512
    seconds: float = 30.0
    encoded: int = 1000


def bench_classifier(plan: ClassifierBenchPlan, progress: Progress) -> dict[str, Any]:
    """Measure everything; gives the report's flat figures.

    Raises:
        EncoderUnavailable: the encoder cannot be loaded.
        ArmInvalid: a policy did not come into force.
    """
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as state:
        settings = Settings(
            state_dir=Path(state), encoder=plan.encoder, encoder_device=plan.device or "auto"
        )
        encoder = load_encoder(plan.encoder, device=plan.device)
        bench = _Bench(plan, settings, encoder, progress)
        figures = asyncio.run(bench.run())
    return {
        **figures,
        "encoded": plan.encoded,
        "sizes": ",".join(map(str, plan.sizes)),
        "encoder": encoder.id,
        "device": encoder.device,
        "concurrency": CONCURRENCY,
        "method": METHOD,
    }


class _Bench:
    """One run: a screening, and registries of growing size one after the other."""

    def __init__(
        self,
        plan: ClassifierBenchPlan,
        settings: Settings,
        encoder: SentenceEncoder,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._encoder = encoder
        self._progress = progress
        self._screening = Screening(settings)
        self._asked = self._steered = 0
        self._delays: list[float] = []

    async def run(self) -> dict[str, Any]:
        task = self._progress.add_task("measuring", total=len(self._plan.sizes) + 1)
        self._screening.start(GatewayMetrics(CollectorRegistry(), self._screening.worker_facts))
        floors = await asyncio.to_thread(Floors.measure, self._encoder.device)
        figures = self._encoder_figures(floors)
        async with self._loop_delay():
            await asyncio.sleep(1)
        figures |= self._delay_figures("idle")
        before = _memory("RssAnon")
        self._progress.advance(task)
        for generation, size in enumerate(self._plan.sizes, 1):
            await self._activate(generation, size)
            figures |= await self._measure(label(size))
            figures |= self._product_figures(size, floors)
            figures[f"memory_anonymous_mb_{label(size)}"] = round(_memory("RssAnon") - before, 1)
            figures[f"memory_mapped_mb_{label(size)}"] = round(_memory("RssFile"), 1)
            self._progress.advance(task)
        return figures | {"prompts_asked": self._asked, "prompts_steered": self._steered}

    async def _activate(self, generation: int, size: int) -> None:
        digest = await asyncio.to_thread(
            write_registry,
            self._encoder,
            size,
            self._plan.encoded,
            self._settings.snapshots,
        )
        ActivePointer(self._settings.state_dir).publish(generation, digest)
        end = time.monotonic() + 300
        while (policy := self._screening.current()) is None or policy.generation < generation:
            if time.monotonic() > end:
                raise ArmInvalid(f"a policy of {size} prompts did not come into force")
            await asyncio.sleep(0.05)
        for prompt in self._new_prompts(_LEAST):
            await self._ask(prompt)

    async def _measure(self, name: str) -> dict[str, Any]:
        async with self._loop_delay():
            alone = await self._alone()
        figures = self._delay_figures(f"alone_{name}")
        async with self._loop_delay():
            together, asked = await self._together()
        figures |= self._delay_figures(f"at_64_{name}")
        [again] = self._new_prompts(1)
        await self._ask(again)
        cached = [await self._ask(again) for _ in range(1000)]
        return figures | {
            **spread(f"alone_us_{name}", alone),
            f"alone_us_{name}_p99": round(float(np.percentile(alone, 99)), 1),
            f"alone_prompts_{name}": len(alone),
            f"at_64_us_{name}": round(together, 1),
            f"at_64_prompts_{name}": asked,
            **spread(f"cached_us_{name}", cached),
        }

    async def _alone(self) -> list[float]:
        """Microseconds of each prompt."""
        costs: list[float] = []
        end = time.monotonic() + self._plan.seconds
        for prompt in self._new_prompts(self._plan.prompts):
            if len(costs) >= _LEAST and time.monotonic() > end:
                break
            costs.append(await self._ask(prompt))
        return costs

    async def _together(self) -> tuple[float, int]:
        """Microseconds per prompt of the whole, and how many prompts that were."""
        waiting = iter(self._new_prompts(max(self._plan.prompts, 2 * CONCURRENCY)))
        end = time.monotonic() + self._plan.seconds
        done = 0

        async def client() -> None:
            nonlocal done
            for prompt in waiting:
                await self._ask(prompt)
                done += 1
                if time.monotonic() > end:
                    break

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as clients:
            for _ in range(CONCURRENCY):
                clients.create_task(client())
        return 1e6 * (time.perf_counter() - begun) / done, done

    async def _ask(self, prompt: str) -> float:
        begun = time.perf_counter()
        decision: Decision = await self._screening.screen([prompt])
        seconds = time.perf_counter() - begun
        self._steered += bool(decision.detections)
        return 1e6 * seconds

    def _new_prompts(self, count: int) -> list[str]:
        self._asked += count
        return innocent_prompts(self._asked - count, count)

    def _encoder_figures(self, floors: Floors) -> dict[str, Any]:
        flops = encoder_flops(self._encoder, innocent_prompts(10**6, 64))
        batch = GPU_BATCH if self._encoder.on_gpu else CPU_BATCH
        alone = [self._encode_us(innocent_prompts(n, 1)) for n in range(20)]
        many = [self._encode_us(innocent_prompts(n * batch, batch)) for n in range(100, 110)]
        return {
            **spread("encode_us", alone),
            **spread("encode_us_in_batch", many),
            "encode_batch": batch,
            "encoder_gflop": round(flops / 1e9, 4),
            "floor_encode_us": round(1e6 * flops / floors.encoder_flops_per_second, 1),
            "peak_gflops": round(floors.flops_per_second / 1e9, 1),
            "memory_gb_per_s": round(floors.bytes_per_second / 1e9, 1),
        }

    def _encode_us(self, prompts: Sequence[str]) -> float:
        """Microseconds per prompt."""
        return _timed(lambda: self._encoder.encode(prompts)) / len(prompts)

    def _product_figures(self, size: int, floors: Floors) -> dict[str, Any]:
        policy = self._screening.current()
        assert policy is not None
        classifier, name = policy.classifier, label(size)
        windows = self._encoder.encode(innocent_prompts(10**7, CONCURRENCY))

        def compare(count: int) -> Callable[[], None]:
            parts = [windows[n : n + 1] for n in range(count)]
            return lambda: classifier.compare([classifier.begin([]) for _ in parts], parts)

        one = [_timed(compare(1)) for _ in range(_LEAST)]
        many = [_timed(compare(CONCURRENCY)) / CONCURRENCY for _ in range(_LEAST)]
        octets = 4 * size * self._encoder.dimension
        compute = 2 * size * self._encoder.dimension / floors.flops_per_second
        # What fits a cache is not read from memory.
        reading = octets / floors.bytes_per_second if octets > _CACHED_BYTES else 0.0
        return {
            **spread(f"product_us_{name}", one),
            **spread(f"product_at_64_us_{name}", many),
            f"product_megabytes_{name}": round(octets / 1e6, 2),
            f"floor_product_us_{name}": round(1e6 * max(reading, compute), 3),
            f"floor_product_at_64_us_{name}": round(1e6 * max(reading / CONCURRENCY, compute), 3),
        }

    @asynccontextmanager
    async def _loop_delay(self) -> AsyncIterator[None]:
        self._delays = []
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticker.cancel()

    async def _tick(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            self._delays.append(time.perf_counter() - begun - _TICK_SECONDS)

    def _delay_figures(self, name: str) -> dict[str, float]:
        delays = 1e3 * np.array(self._delays or [0.0])
        return {
            f"loop_delay_ms_p99_{name}": round(float(np.percentile(delays, 99)), 3),
            f"loop_delay_ms_max_{name}": round(float(delays.max()), 3),
        }


def label(size: int) -> str:
    """100, 10k, 1m: how a size is written in a figure's name."""
    for letter, unit in (("m", 1_000_000), ("k", 1_000)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def _timed(call: Callable[[], object]) -> float:
    """Microseconds."""
    begun = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begun)


def _memory(field: str) -> float:
    """Megabytes of this process's memory of one kind (proc(5), status)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0
