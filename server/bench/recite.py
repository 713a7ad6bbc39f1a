"""`lethegate bench recite`: a model that recites its training texts: plain, vetoed, shielded.

The model is trained for this from nothing, unless one is given: see `deploy/demo/recite.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.progress import Progress

from guard.tokenisations import tokenizer_of
from server.bench.admin_job import job_done
from server.bench.answers import read_answer
from server.bench.errors import ArmInvalid, InputMissing
from server.bench.figures import arm_figures, spread
from server.bench.load import Workload, run_load, take_prompts
from server.bench.recitals import recited_figures
from server.bench.servers import (
    SERVED_NAME,
    GuardedLaunch,
    Launch,
    Servers,
    guarded_launch,
    plain_launch,
)
from server.metrics.workers import VETOED_TOKENS

METHOD = (
    "A small model is trained until it knows invented passages by heart. Arms: plain vLLM; veto, "
    "the passages are documents of a target with scope always, so that every request is steered, "
    "and TraceShield is left out as far as it can be (minimum match of 60 words); shield, they are "
    "a corpus with scope always and no target; both, the target with its defaults. Plain vLLM and "
    "the guarded server run with the same flags; on CPUs both engines run on all cores but the "
    "first. Generations ask for a passage or its rest at temperatures 0, 0.7 and 1, seeded, all "
    "arms with the same requests. A generation recites when its text, tokenised, has a run of "
    "`minimum_match` tokens in common with a passage tokenised; the longest run of words is told "
    "beside it, since text can go on in other tokens. Benign answers are greedy, one request at a "
    "time, and changed when they differ from plain vLLM's in any character. Throughput is of "
    "streamed completions of fixed token counts that ask benign questions, arms by turns, ratios "
    "within a round, then the median over rounds."
)
_TRAINER = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "recite.py"
_GUARDED = ("veto", "shield", "both")
_ARMS = ("plain", *_GUARDED)
_LONGEST_WORDS = 60  # the longest minimum match that a target takes
_TEMPERATURES = (0.0, 0.7, 1.0)
_IDLE_SECONDS = 2.0  # vLLM closes a connection that was idle for 5
_NAME = "recited"  # of the target and of the corpus


@dataclass(frozen=True, slots=True)
class RecitePlan:
    """What to measure; `model` is a folder that the trainer made, None trains one."""

    model: Path | None
    flags: Sequence[str]
    generations: int
    rounds: int
    requests: int
    concurrency: int
    max_tokens: int
    minimum_match: int


@dataclass(frozen=True, slots=True)
class Material:
    """What the model was taught: documents, prompts that ask for them, and other questions."""

    documents: Sequence[str]
    prompts: Sequence[str]
    benign: Sequence[str]


@dataclass(slots=True)
class _Measured:
    throughput: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in _ARMS})
    generations: dict[str, list[str]] = field(default_factory=dict)
    benign: dict[str, list[str]] = field(default_factory=dict)


def bench_recite(plan: RecitePlan, progress: Progress) -> dict[str, Any]:
    """Train if need be, serve and measure; gives the report's flat figures.

    Raises:
        BenchError: there is no trainer, a server did not start or died, or a request failed.
    """
    with ExitStack() as stack:
        task = progress.add_task("the model", total=1)
        started = time.monotonic()
        model = plan.model or _trained(stack)
        figures = {"training_seconds": round(time.monotonic() - started, 1)}
        progress.advance(task)
        material = read_material(model)
        servers = stack.enter_context(Servers())
        plain = plain_launch(str(model), plan.flags)
        guarded = guarded_launch(str(model), plan.flags, servers.state)
        for launch in (plain, guarded):
            task = progress.add_task(f"starting the {launch.name} server", total=1)
            servers.start(launch)
            progress.advance(task)
        measured = _measure(plan, material, plain, guarded, progress)
        servers.check()
        figures["vetoed_tokens"] = _vetoed_tokens(guarded.base_url)
        encode = tokenizer_of(str(model))
        generations, limit = measured.generations, plan.minimum_match
        figures |= recited_figures(generations, material.documents, limit, encode)
    return {
        **figures,
        **_other_figures(measured),
        "minimum_match": plan.minimum_match,
        "documents": len(material.documents),
        "rounds": plan.rounds,
        "concurrency": plan.concurrency,
        "requests_per_arm_and_round": plan.requests,
        "max_tokens": plan.max_tokens,
        "vllm_flags": " ".join(plan.flags),
        "method": METHOD,
    }


def read_material(model: Path) -> Material:
    """What the trainer has put beside a model.

    Raises:
        InputMissing: it is not there.
    """
    try:
        passages, benign = (
            [json.loads(line) for line in (model / name).read_text("utf-8").splitlines()]
            for name in ("passages.jsonl", "benign.jsonl")
        )
        return Material(
            [str(row["text"]) for row in passages],
            [str(prompt) for row in passages for prompt in row["prompts"]],
            [str(row["question"]) for row in benign],
        )
    except (OSError, ValueError, KeyError):
        raise InputMissing(f"{model} was not made by deploy/demo/recite.py") from None


def _trained(stack: ExitStack) -> Path:
    if not _TRAINER.is_file():
        raise InputMissing("give --model: it can only be trained in a checkout")
    model = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lethegate-bench-")))
    command = [sys.executable, str(_TRAINER), "--out", str(model / "reciter")]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise InputMissing("the reciting model could not be trained")
    return model / "reciter"


def _measure(
    plan: RecitePlan,
    material: Material,
    plain: Launch,
    guarded: GuardedLaunch,
    progress: Progress,
) -> _Measured:
    measured = _Measured()
    each = plan.rounds * plan.requests + plan.generations + len(material.benign)
    task = progress.add_task("rounds", total=len(_ARMS) * each)
    bodies = _generations(plan, material.prompts)
    benign = [_body(question, plan.max_tokens) for question in material.benign]

    def on_answer() -> None:
        progress.advance(task)

    for turn in range(plan.rounds):
        first = turn % len(_ARMS)
        asked = take_prompts(material.benign, turn * plan.requests, plan.requests)
        for arm in (*_ARMS[first:], *_ARMS[:first]):
            launch = plain if arm == "plain" else guarded
            if arm != "plain":
                _register(guarded, arm, material.documents)
            run_load(_workload(plan, launch), asked[: plan.concurrency])
            exchanges = run_load(_workload(plan, launch), asked, on_answer)
            answers = [read_answer(exchange) for exchange in exchanges]
            if failures := sorted({answer.failure for answer in answers if answer.failure}):
                raise ArmInvalid(f"{arm}: requests failed: {', '.join(failures)}")
            measured.throughput[arm].append(arm_figures(answers).tokens_per_second)
            if not turn:
                url = launch.base_url
                measured.generations[arm] = _ask(url, bodies, plan.concurrency, on_answer)
                measured.benign[arm] = _ask(url, benign, 1, on_answer)
    return measured


def _register(guarded: GuardedLaunch, arm: str, documents: Sequence[str]) -> None:
    """Take back what another arm registered, and register what this one asks for."""
    texts = [{"text": text} for text in documents]
    with guarded.admin() as admin:
        if any(target["id"] == _NAME for target in admin.targets()):
            job_done(admin, admin.withdraw(_NAME))
        if any(corpus["id"] == _NAME for corpus in admin.corpora()):
            job_done(admin, admin.withdraw_corpus(_NAME))
        if arm == "shield":
            job_done(admin, admin.create_corpus({"id": _NAME, "scope": "always"}))
            lines = (json.dumps(text).encode() + b"\n" for text in texts)
            job_done(admin, admin.upload_documents(_NAME, lines))
            return
        target: dict[str, Any] = {"id": _NAME, "documents": texts, "scope": "always"}
        if arm == "veto":
            target["thresholds"] = {"minimum_match": _LONGEST_WORDS}
        job_done(admin, admin.register(json.dumps(target).encode()))


def _generations(plan: RecitePlan, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The requests of the generations: every prompt in turn, the temperatures likewise."""
    found = []
    for number in range(plan.generations):
        prompt = prompts[number % len(prompts)]
        temperature = _TEMPERATURES[number // len(prompts) % len(_TEMPERATURES)]
        found.append(_body(prompt, plan.max_tokens, temperature=temperature, seed=number))
    return found


def _body(prompt: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    body = {"model": SERVED_NAME, "messages": messages, "max_tokens": max_tokens}
    return {**body, "temperature": 0, **more}


def _ask(
    url: str, bodies: Sequence[dict[str, Any]], concurrency: int, on_answer: Callable[[], None]
) -> list[str]:
    """The answers' texts, in the order of the requests."""
    limits = httpx.Limits(max_connections=concurrency, keepalive_expiry=_IDLE_SECONDS)
    with (
        httpx.Client(base_url=url, timeout=120, limits=limits, trust_env=False) as http,
        ThreadPoolExecutor(concurrency) as pool,
    ):

        def ask(body: dict[str, Any]) -> str:
            try:
                response = http.post("/v1/chat/completions", json=body)
                response.raise_for_status()
                return str(response.json()["choices"][0]["message"]["content"] or "")
            except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                raise ArmInvalid(f"a request failed: {type(error).__name__}") from None

        found = []
        for text in pool.map(ask, bodies):
            found.append(text)
            on_answer()
    return found


def _other_figures(measured: _Measured) -> dict[str, Any]:
    found: dict[str, Any] = {"benign_questions": len(measured.benign["plain"])}
    for arm in _GUARDED:
        pairs = zip(measured.throughput[arm], measured.throughput["plain"], strict=True)
        found |= spread(f"throughput_ratio_{arm}", [one / plain for one, plain in pairs])
        answers = zip(measured.benign[arm], measured.benign["plain"], strict=True)
        found[f"benign_changed_{arm}"] = sum(one != plain for one, plain in answers)
    for arm in _ARMS:
        found |= spread(f"tokens_per_second_{arm}", measured.throughput[arm])
    return found


def _vetoed_tokens(url: str) -> int:
    """What the guarded server has counted."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    found = (line for line in lines if line.startswith(VETOED_TOKENS))
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in found))


def _workload(plan: RecitePlan, launch: Launch) -> Workload:
    return Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)
