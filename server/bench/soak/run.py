"""`lethegate bench soak`: mixed load for minutes on end, while processes die and policies change.

Plain vLLM says first what is right. Then the guarded server is asked in every shape of request, by
quick, slow and leaving clients, while a target comes, changes and goes every two seconds, and while
control process and API process are killed. Processes die in the first third; how much memory they
have is compared over the rest, in which the same processes live.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from detectors.targets import ForgetTarget
from server.attack.cases import prey_of
from server.bench.admin_job import job_done
from server.bench.errors import ArmInvalid
from server.bench.load import Workload
from server.bench.machine_time import MachineTime
from server.bench.servers import (
    SERVED_NAME,
    GuardedLaunch,
    Servers,
    guarded_launch,
    plain_launch,
)
from server.bench.soak.figures import counts, describe, failures, server_facts, soak_figures
from server.bench.soak.judge import ACCEPTABLE, Judged
from server.bench.soak.kills import Killer
from server.bench.soak.load import Load, all_of
from server.bench.soak.memory import MemoryWatch, memory_figures
from server.bench.soak.part import Part
from server.bench.soak.questions import Known, known_questions
from server.bench.soak.reloads import Reloader, changing_prey
from server.bench.soak.requests import CHAT_SHAPES, Manner, asks, says, unmatched
from server.bench.verdicts import leave_out_matched
from server.schemas import TargetIn

METHOD = (
    "Plain vLLM's greedy answers to the unmatched questions are the reference, where every token "
    "is ahead by 0.5 nats (else the batch decides). Then the guarded server, target registered: "
    "closed loop of clients, half of the requests matched, in the shapes of chat, completions, "
    "messages and responses, streamed and not, with choices, tools and forms; of ten clients one "
    "sends and reads in drops and one leaves. A further target is registered, altered and "
    "withdrawn, one change every reload_seconds, and asked for after each. In the first third of "
    "the time the control process is killed (SIGKILL) ten times at most and the API process once "
    "or twice; then the bench ends what is left and starts the server again, as a supervisor "
    "does. A leak is an active phrase on any surface of an answer to a registered question; a "
    "wrong answer one to an allowed question that is not the reference; memory is the median of "
    "the resident memory of each process, second half against first half of the last two "
    "thirds; a request is late after 120 s, or 60 s without a byte."
)
_SAMPLE_SECONDS = 5.0
_SETTLED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What to do. `target` is a target's JSON."""

    model: str
    flags: Sequence[str]
    target: bytes
    unmatched: Sequence[str]
    seconds: float
    concurrency: int
    reload_seconds: float
    seed: int = 0

    @property
    def api_deaths(self) -> list[float]:
        """When the API process is killed, in seconds from the start."""
        shares = (0.05, 0.18) if self.seconds >= 600 else (0.05,)
        return [share * self.seconds for share in shares]

    @property
    def control_deaths(self) -> list[float]:
        """When the control process is killed: not where the whole server is."""
        every = max(30.0, self.seconds / 30)
        times = [every * n for n in range(1, 11) if every * n < self.seconds / 3]
        return times or [self.seconds / 4]


def bench_soak(plan: SoakPlan, progress: Progress) -> dict[str, Any]:
    """Learn what is right, soak, and judge; gives the report's flat figures, with `passed`.

    Raises:
        BenchError: a server did not start or come back, or the questions do not fit.
    """
    with Servers() as servers:
        plain = plain_launch(plan.model, plan.flags)
        task = progress.add_task("asking plain vLLM", total=len(plan.unmatched))
        servers.start(plain)
        known = known_questions(
            plain.base_url, SERVED_NAME, plan.unmatched, lambda: progress.advance(task)
        )
        servers.stop(plain)
        launch = guarded_launch(plan.model, plan.flags, servers.state)
        task = progress.add_task("starting the guarded server", total=1)
        servers.start(launch)
        with launch.admin() as admin:
            job_done(admin, admin.register(plan.target))
        progress.advance(task)
        changing, known = choose_changing(_allowed(plan, launch, known, progress))
        quiet = _quiet(launch, known, plan, progress)
        found = _soak(plan, servers, launch, known, changing, progress)
        found["quiet_outcomes"] = counts(quiet)
        found["quiet_not_acceptable"] = [
            describe(one) for one in quiet if one.outcome not in ACCEPTABLE
        ]
    missed = failures(found)
    return {
        "passed": not missed,
        "missed": missed,
        **found,
        "known_questions": len(known),
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def choose_changing(known: Sequence[Known]) -> tuple[Known, list[Known]]:
    """A question to register and withdraw again and again, and the others.

    No other answer says what it forbids, so that none is changed by it.

    Raises:
        ArmInvalid: every answer's phrases are in others.
    """
    for one in reversed(known):
        prey = changing_prey(one)
        others = [other for other in known if other is not one]
        texts = [t for o in others for t in (o.question, o.chat, o.completion or "")]
        if says(prey, one.chat) and not any(says(prey, text) for text in texts):
            return one, others
    raise ArmInvalid("no question's answer can be forbidden without changing others")


def _allowed(
    plan: SoakPlan, launch: GuardedLaunch, known: Sequence[Known], progress: Progress
) -> list[Known]:
    """The questions that the registered target does not match."""
    task = progress.add_task("screening the questions", total=len(known))
    workload = Workload(launch.base_url, SERVED_NAME, 1, 2)
    questions = [one.question for one in known]
    left = set(leave_out_matched(launch, workload, questions, lambda: progress.advance(task)))
    return [one for one in known if one.question in left]


def _quiet(
    launch: GuardedLaunch, known: Sequence[Known], plan: SoakPlan, progress: Progress
) -> list[Judged]:
    """Every question once, while nothing happens to the server."""
    shaped = [
        unmatched(one, CHAT_SHAPES[i % len(CHAT_SHAPES)], Manner.QUICK, SERVED_NAME)
        for i, one in enumerate(known)
    ]
    task = progress.add_task("asking in quiet", total=len(shaped))
    return all_of(
        launch.base_url,
        launch.admin_key,
        shaped,
        plan.concurrency,
        lambda: progress.advance(task),
    )


def _soak(
    plan: SoakPlan,
    servers: Servers,
    launch: GuardedLaunch,
    known: Sequence[Known],
    changing: Known,
    progress: Progress,
) -> dict[str, Any]:
    machine = MachineTime()
    killer = Killer(servers, launch, plan.control_deaths, plan.api_deaths)
    load = Load(
        launch.base_url,
        launch.admin_key,
        asks(known, prey_of(_target(plan)), SERVED_NAME, plan.seed),
        plan.concurrency,
        lambda: killer.restarts,
    )
    reloader = Reloader(launch, changing, plan.reload_seconds, killer.restarts)
    memory = MemoryWatch(lambda: servers.pid(launch), _SAMPLE_SECONDS)
    parts: tuple[Part, ...] = (load, reloader, killer, memory)
    begun = time.monotonic()
    try:
        for part in parts:
            part.start()
        _wait(plan, parts, progress)
    except BaseException:
        # Nobody waits for them: they end with the servers.
        for part in parts:
            part.abandon()
        raise
    for part in reversed(parts):
        part.stop()
    _check(parts)
    servers.check()
    return {
        **soak_figures(load.judged, reloader.changes, killer, server_facts(launch, servers.state)),
        **memory_figures(memory.samples, begun + plan.seconds / 3, _SETTLED_SECONDS),
        "seconds": round(time.monotonic() - begun),
        "concurrency": plan.concurrency,
        "reload_seconds": plan.reload_seconds,
        "machine_share": round(machine.share(), 3),
    }


def _wait(plan: SoakPlan, parts: Sequence[Part], progress: Progress) -> None:
    task = progress.add_task("soaking, seconds", total=round(plan.seconds))
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < plan.seconds:
        _check(parts)
        progress.update(task, completed=round(passed))
        time.sleep(0.5)
    progress.update(task, completed=round(plan.seconds))


def _check(parts: Sequence[Part]) -> None:
    for part in parts:
        part.check()


def _target(plan: SoakPlan) -> ForgetTarget:
    return TargetIn.model_validate_json(plan.target).to_target()
