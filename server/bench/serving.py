"""`lethegate bench serving`: what a guarded request costs against the same request to plain vLLM.

Both servers run all the time and only one of them is asked at a time. A round has four arms; the
two arms of a pair are neighbours, so that what the machine does meanwhile meets both, and the order
turns from round to round. Ratios are made within a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from server.bench.admin_job import job_done
from server.bench.answers import Answer, read_answer
from server.bench.errors import ArmInvalid
from server.bench.figures import ArmFigures, arm_figures, spread
from server.bench.load import Workload, run_load, take_prompts
from server.bench.machine_time import MachineTime
from server.bench.servers import (
    SERVED_NAME,
    GuardedLaunch,
    Launch,
    Servers,
    guarded_launch,
    plain_launch,
)
from server.bench.unnamed import numbered, registered_names, unnamed_prompts
from server.bench.verdicts import check_steered, count_verdicts, leave_out_matched

METHOD = (
    "Plain vLLM and the guarded server, both running with the same flags and a target registered, "
    "answer the same prompts, none of them twice, by turns in one run with streamed chat "
    "completions of fixed token counts, half to one and a half times max_tokens; on CPUs both "
    "engines run on all cores but the first. Ratios and differences are paired within a round, "
    "then the median over rounds is taken. Unmatched prompts are those whose answers, by plain "
    "vLLM, say no registered name, which would end them."
)
# Answers that may turn out to say a name although plain vLLM's did not.
MAX_UNMATCHED_CUT = 0.03
_SERVERS = ("plain", "guarded")
_TRAFFIC = ("unmatched", "matched")


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What to measure. `requests` is per arm and round."""

    model: str
    flags: Sequence[str]
    target: bytes
    unmatched: Sequence[str]
    matched: Sequence[str]
    rounds: int
    concurrency: int
    requests: int
    max_tokens: int

    def prompts(self, traffic: str, turn: int) -> list[str]:
        """The prompts of one round, the same for both servers, and in no other round."""
        start = turn * self.requests
        if traffic == "unmatched":
            return list(self.unmatched[start : start + self.requests])
        return numbered(self.matched, start, self.requests)


@dataclass(frozen=True, slots=True)
class Arm:
    """One server under one kind of traffic."""

    server: str
    traffic: str

    @property
    def name(self) -> str:
        """As in the report's keys."""
        return f"{self.traffic}_{self.server}"


@dataclass(frozen=True, slots=True)
class Measured:
    """One arm of one round; `steered_share` is None for plain vLLM."""

    figures: ArmFigures
    steered_share: float | None


Round = dict[str, Measured]


def arm_order(turn: int) -> list[Arm]:
    """The arms of a round: pairs stay together; who begins changes, pair and server in turn."""
    traffic = _TRAFFIC if turn % 4 in (0, 3) else _TRAFFIC[::-1]
    servers = _SERVERS if turn % 2 == 0 else _SERVERS[::-1]
    return [Arm(server, kind) for kind in traffic for server in servers]


def bench_serving(plan: ServingPlan, progress: Progress) -> dict[str, Any]:
    """Start both servers, measure all rounds, end both; gives the report's flat figures.

    Raises:
        BenchError: a server did not start or died, a request failed, or traffic was not steered as
            its arm's name says.
    """
    with Servers() as servers:
        plain = plain_launch(plan.model, plan.flags)
        guarded = guarded_launch(plan.model, plan.flags, servers.state)
        launches = {"plain": plain, "guarded": guarded}
        _start(plan, servers, plain, guarded, progress)
        asked = len(plan.unmatched)
        plan = replace(plan, unmatched=_really_unmatched(plan, guarded, progress))
        kept = len(plan.unmatched)
        plan = replace(plan, unmatched=_unnamed(plan, plain, guarded, progress))
        _warm_up(plan, launches, progress)
        rounds = []
        machine = MachineTime()
        for turn in range(plan.rounds):
            rounds.append(_round(plan, launches, turn, progress))
            servers.check()
    return {
        **serving_figures(rounds),
        "unmatched_questions": asked,
        "unmatched_questions_left_out": asked - kept,
        "machine_share": round(machine.share(), 3),
        "rounds": plan.rounds,
        "concurrency": plan.concurrency,
        "requests_per_arm_and_round": plan.requests,
        "max_tokens": plan.max_tokens,
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def serving_figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Everything the rounds say, flat: what the guard costs first, then each arm."""
    found: dict[str, Any] = {}
    for traffic in _TRAFFIC:
        pairs = [
            (one[f"{traffic}_guarded"].figures, one[f"{traffic}_plain"].figures) for one in rounds
        ]
        found |= spread(
            f"{traffic}_throughput_ratio",
            [guarded.tokens_per_second / plain.tokens_per_second for guarded, plain in pairs],
        )
        # Over the whole run: the same work in so much more time. Steadier where rounds are short.
        guarded_time, plain_time = (
            sum(1 / one.tokens_per_second for one in arm) for arm in zip(*pairs, strict=True)
        )
        found[f"{traffic}_throughput_ratio_overall"] = round(plain_time / guarded_time, 4)
        prefix = "" if traffic == "unmatched" else "matched_"
        for figure in ("ttft", "inter_token"):
            key = f"{figure}_ms_p50"
            found |= spread(
                f"{prefix}{figure}_added_ms_p50",
                [getattr(guarded, key) - getattr(plain, key) for guarded, plain in pairs],
            )
    for arm in arm_order(0):
        found |= _arm_spreads(arm.name, [one[arm.name] for one in rounds])
    return found


def check_arm(arm: Arm, answers: Sequence[Answer]) -> None:
    """Make sure that an arm did the work that its figures stand for.

    Only the guarded server may cut an answer short, a matched one, or few that say a name in spite
    of the choice: texts differ with the batch.

    Raises:
        ArmInvalid: it did not.
    """
    whole = [answer for answer in answers if answer.finish_reason != "content_filter"]
    most = len(answers) if arm.traffic == "matched" else int(MAX_UNMATCHED_CUT * len(answers))
    if arm.server != "guarded" or len(answers) - len(whole) > most:
        whole = list(answers)
    failures = sorted({answer.failure for answer in whole if answer.failure})
    if failures:
        count = sum(bool(answer.failure) for answer in whole)
        raise ArmInvalid(f"{arm.name}: {count} of {len(answers)} failed: {', '.join(failures)}")
    short = [answer for answer in whole if answer.tokens != answer.asked]
    if short:
        raise ArmInvalid(
            f"{arm.name}: {len(short)} of {len(answers)} answers have not the tokens asked for"
        )


def _start(
    plan: ServingPlan, servers: Servers, plain: Launch, guarded: GuardedLaunch, progress: Progress
) -> None:
    """Start both and register the target. One after the other: each weighs the machine's free
    memory while it starts."""
    for launch in (plain, guarded):
        task = progress.add_task(f"starting the {launch.name} server", total=1)
        servers.start(launch)
        progress.advance(task)
    task = progress.add_task("registering the target", total=1)
    with guarded.admin() as admin:
        job_done(admin, admin.register(plan.target))
    progress.advance(task)


def _really_unmatched(plan: ServingPlan, guarded: GuardedLaunch, progress: Progress) -> list[str]:
    task = progress.add_task("screening the unmatched questions", total=len(plan.unmatched))
    return leave_out_matched(
        guarded, _workload(plan, guarded), plan.unmatched, lambda: progress.advance(task)
    )


def _unnamed(
    plan: ServingPlan, plain: Launch, guarded: GuardedLaunch, progress: Progress
) -> list[str]:
    wanted = plan.rounds * plan.requests
    task = progress.add_task("choosing prompts that name nobody", total=wanted)
    return unnamed_prompts(
        _workload(plan, plain),
        plan.unmatched,
        registered_names(guarded, plan.target),
        wanted,
        plan.requests,
        lambda count: progress.update(task, completed=count),
    )


def _warm_up(plan: ServingPlan, launches: dict[str, Launch], progress: Progress) -> None:
    """Every arm once, unmeasured and short, so that nothing is done for the first time later."""
    count = 2 * plan.concurrency
    task = progress.add_task("warming up", total=4 * count)
    for arm in arm_order(0):
        source = plan.unmatched if arm.traffic == "unmatched" else plan.matched
        workload = _workload(plan, launches[arm.server])
        prompts = take_prompts(source, 0, count)
        run_load(workload, prompts, lambda: progress.advance(task))


def _round(plan: ServingPlan, launches: dict[str, Launch], turn: int, progress: Progress) -> Round:
    task = progress.add_task(f"round {turn + 1} of {plan.rounds}", total=4 * plan.requests)
    measured: Round = {}
    for arm in arm_order(turn):
        launch = launches[arm.server]
        guarded = arm.server == "guarded"
        before = count_verdicts(launch) if guarded else {}
        exchanges = run_load(
            _workload(plan, launch),
            plan.prompts(arm.traffic, turn),
            lambda: progress.advance(task),
        )
        answers = [read_answer(exchange) for exchange in exchanges]
        check_arm(arm, answers)
        share = (
            check_steered(arm.traffic, before, count_verdicts(launch), plan.requests)
            if guarded
            else None
        )
        measured[arm.name] = Measured(arm_figures(answers), share)
    return measured


def _workload(plan: ServingPlan, launch: Launch) -> Workload:
    return Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)


def _arm_spreads(name: str, measured: Sequence[Measured]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key in asdict(measured[0].figures):
        found |= spread(f"{name}_{key}", [getattr(one.figures, key) for one in measured])
    shares = [one.steered_share for one in measured if one.steered_share is not None]
    return found | (spread(f"{name}_steered_share", shares) if shares else {})
