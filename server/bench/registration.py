"""`lethegate bench registration`: how long a target takes to come into force, and who notices.

The guarded server answers concurrent streams all the time. Each repetition registers a target,
withdraws it, and then watches as long again with nothing going on, for comparison.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.progress import Progress

from server.bench.admin_job import job_done
from server.bench.answers import Answer, read_answer
from server.bench.errors import ArmInvalid
from server.bench.figures import (
    Window,
    failed_requests,
    longest_gap_ms,
    longest_ttft_ms,
    spread,
)
from server.bench.invented import invented_target
from server.bench.load import Workload, send_all
from server.bench.machine_time import MachineTime
from server.bench.servers import SERVED_NAME, GuardedLaunch, Servers, guarded_launch

METHOD = (
    "While the guarded server answers concurrent streams, a target is registered (POST until its "
    "job is done: every worker applies it), withdrawn, and then the streams are watched as long "
    "again as the registration took; gaps are between two streamed tokens of the same answer. "
    "machine_share is the share of the time in which a virtual machine was not stopped by its host."
)
PAIRS = 400
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RegistrationPlan:
    """What to measure; `target` None means an invented one, new in every repetition."""

    model: str
    flags: Sequence[str]
    target: bytes | None
    prompts: Sequence[str]
    repetitions: int
    concurrency: int
    max_tokens: int

    def document(self, turn: int) -> bytes:
        """The target of one repetition."""
        if self.target is not None:
            return self.target
        return invented_target(f"bench-{turn + 1}", PAIRS, seed=turn + 1)


@dataclass(frozen=True, slots=True)
class Repetition:
    """When a target was registered, when it was withdrawn, and when nothing was going on."""

    registration: Window
    withdrawal: Window
    baseline: Window


def bench_registration(plan: RegistrationPlan, progress: Progress) -> dict[str, Any]:
    """Start the guarded server, measure, end it; gives the report's flat figures.

    Raises:
        BenchError: the server did not start or died, a job failed, or no stream was running.
    """
    with Servers() as servers:
        launch = guarded_launch(plan.model, plan.flags, servers.state)
        task = progress.add_task("starting the guarded server", total=1)
        servers.start(launch)
        progress.advance(task)
        repetitions, answers = asyncio.run(_measure(plan, launch, progress))
        servers.check()
    return {
        **registration_figures(repetitions, answers),
        "pairs": len(json.loads(plan.document(0)).get("examples", ())),
        "repetitions": plan.repetitions,
        "concurrency": plan.concurrency,
        "max_tokens": plan.max_tokens,
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def registration_figures(
    repetitions: Sequence[Repetition], answers: Sequence[Answer]
) -> dict[str, Any]:
    """What the repetitions and the streams that ran meanwhile say, flat.

    Raises:
        ArmInvalid: in some window no token was streamed, so its gap would mean nothing.
    """
    windows = [w for one in repetitions for w in (one.registration, one.baseline)]
    if any(longest_gap_ms(answers, window) == 0 for window in windows):
        raise ArmInvalid("no tokens were streamed while the target was registered")

    def over(key: str, figure: Callable[[Repetition], float]) -> dict[str, float]:
        return spread(key, [figure(one) for one in repetitions])

    return {
        **over("registration_s", lambda one: one.registration.seconds),
        **over("registration_machine_share", lambda one: one.registration.machine_share),
        **over("withdrawal_s", lambda one: one.withdrawal.seconds),
        **over("longest_gap_ms", lambda one: longest_gap_ms(answers, one.registration)),
        **over("baseline_longest_gap_ms", lambda one: longest_gap_ms(answers, one.baseline)),
        **over("withdrawal_longest_gap_ms", lambda one: longest_gap_ms(answers, one.withdrawal)),
        **over("longest_ttft_ms", lambda one: longest_ttft_ms(answers, one.registration)),
        **over("baseline_longest_ttft_ms", lambda one: longest_ttft_ms(answers, one.baseline)),
        "failed_requests": sum(failed_requests(answers, one.registration) for one in repetitions),
        "failed_requests_total": sum(bool(answer.failure) for answer in answers),
        "requests_total": len(answers),
    }


async def _measure(
    plan: RegistrationPlan, launch: GuardedLaunch, progress: Progress
) -> tuple[list[Repetition], list[Answer]]:
    workload = Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)
    enough = asyncio.Event()
    abandoned = threading.Event()
    load = asyncio.create_task(send_all(workload, cycle(plan.prompts), stop=enough))
    task = progress.add_task("registering and withdrawing", total=plan.repetitions)
    repetitions = []
    try:
        await asyncio.sleep(_SETTLE_SECONDS)
        for turn in range(plan.repetitions):
            repetitions.append(await _repeat(launch, plan.document(turn), abandoned))
            progress.advance(task)
    except BaseException:
        # The thread that waits for a job has to end before the event loop can.
        abandoned.set()
        load.cancel()
        raise
    enough.set()
    return repetitions, [read_answer(exchange) for exchange in await load]


async def _repeat(launch: GuardedLaunch, document: bytes, abandoned: threading.Event) -> Repetition:
    def register() -> None:
        with launch.admin() as admin:
            job_done(admin, admin.register(document), abandoned)

    def withdraw() -> None:
        with launch.admin() as admin:
            job_done(admin, admin.withdraw(json.loads(document)["id"]), abandoned)

    registration = await _timed(register)
    withdrawal = await _timed(withdraw)
    await asyncio.sleep(_SETTLE_SECONDS)
    begin = time.perf_counter()
    await asyncio.sleep(registration.seconds)
    baseline = Window(begin, time.perf_counter())
    await asyncio.sleep(_SETTLE_SECONDS)
    return Repetition(registration, withdrawal, baseline)


async def _timed(action: Callable[[], None]) -> Window:
    machine = MachineTime()
    begin = time.perf_counter()
    await asyncio.to_thread(action)
    return Window(begin, time.perf_counter(), machine.share())
