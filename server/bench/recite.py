"""`lethegate bench recite`: a model that recites its training texts, plain and with the veto.

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
from server.bench.servers import SERVED_NAME, Launch, Servers, guarded_launch, plain_launch
from server.metrics import VETOED_TOKENS

METHOD = (
    "A small model is trained until it knows invented passages by heart; they are then registered "
    "as a target's documents with scope always, so that every request is steered. Plain vLLM and "
    "the guarded server run with the same flags; on CPUs both engines run on all cores but the "
    "first. Generations ask for a passage or its rest at temperatures 0, 0.7 and 1, seeded, both "
    "arms with the same requests. A generation recites when its text, tokenised, has a run of "
    "`minimum_match` tokens in common with a passage tokenised; the longest run of words is told "
    "beside it, since text can go on in other tokens. Benign answers are greedy, one request at a "
    "time, and changed when they differ from plain vLLM's in any character. Throughput is of "
    "streamed completions of fixed token counts, arms by turns, ratios within a round."
)
_TRAINER = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "recite.py"
_ARMS = ("plain", "veto")
_TEMPERATURES = (0.0, 0.7, 1.0)
_TARGET = "recited"


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
        guarded = guarded_launch(str(model), plan.flags, servers.state)
        launches: dict[str, Launch] = {
            "plain": plain_launch(str(model), plan.flags),
            "veto": guarded,
        }
        for launch in launches.values():
            task = progress.add_task(f"starting the {launch.name} server", total=1)
            servers.start(launch)
            progress.advance(task)
        with guarded.admin() as admin:
            job_done(admin, admin.register(_target(material.documents)))
            report = admin.target(_TARGET)["report"]
        measured = _measure(plan, material, launches, progress)
        servers.check()
        figures["vetoed_tokens"] = _vetoed_tokens(guarded.base_url)
        encode = tokenizer_of(str(model))
        generations, limit = measured.generations, plan.minimum_match
        figures |= recited_figures(generations, material.documents, limit, encode)
    return {
        **figures,
        **_other_figures(measured),
        "extracted_phrases": len(report["phrases"]),
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


def _target(documents: Sequence[str]) -> bytes:
    texts = [{"text": text} for text in documents]
    return json.dumps({"id": _TARGET, "documents": texts, "scope": "always"}).encode()


def _measure(
    plan: RecitePlan, material: Material, launches: dict[str, Launch], progress: Progress
) -> _Measured:
    measured = _Measured()
    each = plan.rounds * plan.requests + plan.generations + len(material.benign)
    task = progress.add_task("rounds", total=len(_ARMS) * each)

    def on_answer() -> None:
        progress.advance(task)

    for launch in launches.values():
        run_load(_workload(plan, launch), take_prompts(material.prompts, 0, plan.concurrency))
    for turn in range(plan.rounds):
        asked = take_prompts(material.prompts, turn * plan.requests, plan.requests)
        for arm in _ARMS if turn % 2 == 0 else _ARMS[::-1]:
            exchanges = run_load(_workload(plan, launches[arm]), asked, on_answer)
            answers = [read_answer(exchange) for exchange in exchanges]
            if failures := sorted({answer.failure for answer in answers if answer.failure}):
                raise ArmInvalid(f"{arm}: requests failed: {', '.join(failures)}")
            measured.throughput[arm].append(arm_figures(answers).tokens_per_second)
    bodies = _generations(plan, material.prompts)
    benign = [_body(question, plan.max_tokens) for question in material.benign]
    for arm in _ARMS:
        url = launches[arm].base_url
        measured.generations[arm] = _ask(url, bodies, plan.concurrency, on_answer)
        measured.benign[arm] = _ask(url, benign, 1, on_answer)
    return measured


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
    with (
        httpx.Client(base_url=url, timeout=120, trust_env=False) as http,
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
    pairs = zip(measured.throughput["veto"], measured.throughput["plain"], strict=True)
    found: dict[str, Any] = spread("throughput_ratio_veto", [one / plain for one, plain in pairs])
    for arm in _ARMS:
        found |= spread(f"tokens_per_second_{arm}", measured.throughput[arm])
    answers = zip(measured.benign["veto"], measured.benign["plain"], strict=True)
    changed = sum(one != plain for one, plain in answers)
    return {**found, "benign_questions": len(measured.benign["plain"]), "benign_changed": changed}


def _vetoed_tokens(url: str) -> int:
    """What the guarded server has counted."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    found = (line for line in lines if line.startswith(VETOED_TOKENS))
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in found))


def _workload(plan: RecitePlan, launch: Launch) -> Workload:
    return Workload(launch.base_url, SERVED_NAME, plan.concurrency, plan.max_tokens)
