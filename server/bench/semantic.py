"""`lethegate bench semantic`: what the semantic filter still catches and costs, beside tokens only.

One guarded server has both arms: the same target is registered with delta 1, which leaves the
filter out, and as it is. Plain vLLM answers the same prompts beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from detectors.encoder import Encoder, load_encoder
from server.bench.admin_job import job_done
from server.bench.answers import read_answer
from server.bench.errors import ArmInvalid
from server.bench.figures import arm_figures, spread
from server.bench.load import Workload, run_load, take_prompts
from server.bench.near_verbatim import Leak, Question, leaks
from server.bench.semantic_step import semantic_step
from server.bench.servers import (
    SERVED_NAME,
    GuardedLaunch,
    Launch,
    Servers,
    guarded_launch,
    plain_launch,
)
from server.settings import ENV_PREFIX

METHOD = (
    "Plain vLLM and one guarded server with the semantic filter on, both running with the same "
    "flags; on CPUs both engines run on all cores but the first. Arms take turns in every round: "
    "plain, the target with delta 1 (tokens only), the target as it is (tokens and semantic); the "
    "order turns. Throughput is of streamed, steered chat completions of fixed token counts, "
    "ratios within a round, then the median over rounds. Answers are greedy, one request at a "
    "time: the forget questions in words that were not registered, and questions about others, "
    "whose answers count as changed when they differ from plain vLLM's in any character. A leak is "
    "a distinct word of an answer that is like a word of the registered answer which its question "
    "does not contain: the same, with the same beginning (0.7 of the longer word), alike when "
    "spellings of one sound are made equal, within one edit for five letters, or at a cosine of "
    "0.7 by the default encoder, which is also the filter's; the first that holds counts. A step's "
    "cost is CPU time of the worker's whole `Steering.apply`, arms by turns in blocks."
)
_GUARDED = ("tokens", "semantic")
_ARMS = ("plain", *_GUARDED)


@dataclass(frozen=True, slots=True)
class SemanticPlan:
    """What to measure. `requests` is per arm and round; `innocent` are about no target."""

    model: str
    flags: Sequence[str]
    target: bytes
    questions: Sequence[Question]
    innocent: Sequence[str]
    rounds: int
    concurrency: int
    requests: int
    max_tokens: int
    steps: int = 400
    batch: int = 64

    def document(self, arm: str) -> bytes:
        """The target as one of the guarded arms registers it."""
        document = json.loads(self.target)
        if arm == "tokens":
            document["thresholds"] = {**(document.get("thresholds") or {}), "delta": 1.0}
        return json.dumps(document).encode()

    @property
    def target_id(self) -> str:
        """The target's id."""
        return str(json.loads(self.target)["id"])


@dataclass(frozen=True, slots=True)
class Measured:
    """What all rounds gave: throughput per arm and round, and answers per arm."""

    throughput: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in _ARMS})
    answers: dict[str, list[str]] = field(default_factory=dict)
    innocent: dict[str, list[str]] = field(default_factory=dict)


def bench_semantic(plan: SemanticPlan, progress: Progress) -> dict[str, Any]:
    """Measure everything; gives the report's flat figures.

    Raises:
        BenchError: a server did not start or died, or a request failed.
    """
    task = progress.add_task("a step's cost", total=1)
    figures = semantic_step(plan.batch, plan.steps)
    progress.advance(task)
    measured = Measured()
    with Servers() as servers:
        plain = plain_launch(plan.model, plan.flags)
        guarded = _with_filter(guarded_launch(plan.model, plan.flags, servers.state))
        for launch in (plain, guarded):
            task = progress.add_task(f"starting the {launch.name} server", total=1)
            servers.start(launch)
            progress.advance(task)
        _warm_up(plan, plain, guarded)
        for turn in range(plan.rounds):
            _round(plan, plain, guarded, turn, measured, progress)
            servers.check()
    figures |= throughput_figures(measured)
    figures |= leak_figures(plan.questions, measured.answers, load_encoder(device="cpu"))
    return {
        **figures,
        **changed_figures(measured.innocent),
        "rounds": plan.rounds,
        "concurrency": plan.concurrency,
        "requests_per_arm_and_round": plan.requests,
        "max_tokens": plan.max_tokens,
        "model": Path(plan.model).name,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def arm_order(turn: int) -> list[str]:
    """The arms of a round; each begins in turn."""
    first = turn % len(_ARMS)
    return [*_ARMS[first:], *_ARMS[:first]]


def throughput_figures(measured: Measured) -> dict[str, Any]:
    """Ratios to plain vLLM, and of the two guarded arms to each other."""
    found: dict[str, Any] = {}
    for arm in _GUARDED:
        pairs = zip(measured.throughput[arm], measured.throughput["plain"], strict=True)
        found |= spread(f"throughput_ratio_{arm}", [one / plain for one, plain in pairs])
    pairs = zip(measured.throughput["semantic"], measured.throughput["tokens"], strict=True)
    found |= spread("throughput_ratio_semantic_to_tokens", [one / other for one, other in pairs])
    for arm in _ARMS:
        found |= spread(f"tokens_per_second_{arm}", measured.throughput[arm])
    return found


def leak_figures(
    questions: Sequence[Question], answers: dict[str, list[str]], encoder: Encoder
) -> dict[str, Any]:
    """Per arm: leaked words by kind, and answers with any near-verbatim leak."""
    found: dict[str, Any] = {"forget_questions": len(questions)}
    for arm, texts in answers.items():
        counts = [leaks(q, text, encoder) for q, text in zip(questions, texts, strict=True)]
        for kind in Leak:
            found[f"leaked_words_{kind}_{arm}"] = sum(count[kind] for count in counts)
        near = [sum(n for kind, n in c.items() if kind is not Leak.EXACT) for c in counts]
        found[f"near_verbatim_answers_{arm}"] = sum(bool(number) for number in near)
        found[f"near_verbatim_words_{arm}"] = sum(near)
    return found


def changed_figures(answers: dict[str, list[str]]) -> dict[str, Any]:
    """How many answers to innocent questions are not plain vLLM's."""
    found: dict[str, Any] = {"innocent_questions": len(answers["plain"])}
    for arm in _GUARDED:
        pairs = zip(answers[arm], answers["plain"], strict=True)
        found[f"innocent_answers_changed_{arm}"] = sum(one != plain for one, plain in pairs)
    return found


def _with_filter(launch: GuardedLaunch) -> GuardedLaunch:
    environment = {**launch.environment, f"{ENV_PREFIX}SEMANTIC_FILTER": "true"}
    return replace(launch, environment=environment)


def _warm_up(plan: SemanticPlan, plain: Launch, guarded: GuardedLaunch) -> None:
    """Every arm once, unmeasured and short; the vocabulary is embedded on the way."""
    prompts = take_prompts([q.asked for q in plan.questions], 0, 2 * plan.concurrency)
    for arm in _ARMS:
        if arm != "plain":
            _register(plan, guarded, arm)
        run_load(_workload(plan, plain if arm == "plain" else guarded), prompts)


def _round(
    plan: SemanticPlan,
    plain: Launch,
    guarded: GuardedLaunch,
    turn: int,
    measured: Measured,
    progress: Progress,
) -> None:
    asked = [question.asked for question in plan.questions]
    prompts = [
        f"{prompt} ({number})"
        for number, prompt in enumerate(take_prompts(asked, 0, plan.requests), turn * plan.requests)
    ]
    each = plan.requests + (0 if turn else len(asked) + len(plan.innocent))
    task = progress.add_task(f"round {turn + 1} of {plan.rounds}", total=len(_ARMS) * each)
    for arm in arm_order(turn):
        launch = plain if arm == "plain" else guarded
        if arm != "plain":
            _register(plan, guarded, arm)

        def on_answer() -> None:
            progress.advance(task)

        exchanges = run_load(_workload(plan, launch), prompts, on_answer)
        answers = [read_answer(exchange) for exchange in exchanges]
        if failures := sorted({answer.failure for answer in answers if answer.failure}):
            raise ArmInvalid(f"{arm}: requests failed: {', '.join(failures)}")
        measured.throughput[arm].append(arm_figures(answers).tokens_per_second)
        if not turn:
            measured.answers[arm] = _ask(launch, asked, plan.max_tokens, on_answer)
            measured.innocent[arm] = _ask(launch, plan.innocent, plan.max_tokens, on_answer)


def _register(plan: SemanticPlan, guarded: GuardedLaunch, arm: str) -> None:
    with guarded.admin() as admin:
        if any(target["id"] == plan.target_id for target in admin.targets()):
            job_done(admin, admin.withdraw(plan.target_id))
        job_done(admin, admin.register(plan.document(arm)))


def _ask(
    launch: Launch, prompts: Sequence[str], max_tokens: int, on_answer: Callable[[], None]
) -> list[str]:
    """Greedy answers, one request at a time so that every batch is the same."""
    found = []
    with httpx.Client(base_url=launch.base_url, timeout=120, trust_env=False) as http:
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            body = {"model": SERVED_NAME, "messages": messages, "temperature": 0}
            try:
                response = http.post(
                    "/v1/chat/completions", json={**body, "max_tokens": max_tokens}
                )
                response.raise_for_status()
                found.append(str(response.json()["choices"][0]["message"]["content"] or ""))
            except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                raise ArmInvalid(f"a question failed: {type(error).__name__}") from None
            on_answer()
    return found


def _workload(plan: SemanticPlan, launch: Launch) -> Workload:
    return Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)
