"""`lethegate bench watch`: what it costs to watch the answers of requests that nothing steers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry
from rich.progress import Progress
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detectors.benign import benign_prompts
from detectors.targets import Phrase
from guard.background import background, word_view
from guard.decision import Decision, Verdict
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.ledger import CloseReason
from guard.nets import AnswerNets, Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from guard.trace_shield import TraceShield
from server.auth import KeyRing
from server.bench.figures import spread
from server.bench.provenance_texts import corpus, library
from server.bench.spellings import invented_phrases
from server.gateway import Gateway
from server.guarding import Engine
from server.metrics.gateway import GatewayMetrics
from server.settings import Settings
from server.sse import DONE, encode_event, encode_json
from tracing.document import Document
from tracing.index import Index
from tracing.judge import Finding, Judge, Watched

METHOD = (
    "The gateway, with a guard that allows everything, before an app that streams the chunks of "
    "chat answers as vLLM writes them, a word or half a word each, one message per chunk; no "
    "network and no engine. CPU time of one process, median over answers, with names to watch for "
    "and without (passed), by turns. logprobs: each chunk has 20 alternatives. Texts are the "
    "shipped benign prompts; names are two invented words each. traced: TraceShield, minimum 8, "
    "over traced_mb megabytes of the installed packages' texts."
)
NAMES = (20, 10_000)
_ALTERNATIVES = 20
_BODY = encode_json({"model": "bench", "messages": [], "stream": True})


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What to measure; `megabytes` of text are registered for TraceShield."""

    answers: int
    chunks: int
    megabytes: float = 10.0


@dataclass(frozen=True, slots=True)
class _View:
    generation: int = 1

    def enforces_for(self, scope: KeyScope) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _Allowing:
    """A guard that allows everything and watches for given names."""

    answer_nets: AnswerNets

    def current(self) -> _View:
        return _View()

    def unready(self) -> Sequence[str]:
        return ()

    async def screen(self, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Decision:
        return Decision(Verdict.ALLOW, 1, "0" * 64)

    def nets(self, decision: Decision, request_id: str = "") -> AnswerNets:
        return self.answer_nets

    def prevented(self, nonce: int) -> int:
        """Nothing was."""
        return 0

    def closed(self, nonce: int) -> CloseReason | None:
        return None


def bench_watch(plan: WatchPlan, progress: Progress) -> dict[str, Any]:
    """Microseconds of CPU per streamed chunk: passed on, watched, traced; flat figures.

    Raises:
        InputMissing: there are too few texts to register.
    """
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as directory:
        traced = _tracing(Path(directory) / "index", plan.megabytes)
        return _measure(plan, traced, progress)


def _measure(plan: WatchPlan, traced: AnswerNets, progress: Progress) -> dict[str, Any]:
    watches = {f"watched_{count}_names": _watching(count) for count in NAMES}
    nets = {"passed": AnswerNets(), **watches, "traced": traced}
    task = progress.add_task("streaming", total=2 * plan.answers)
    figures: dict[str, Any] = {}
    for prefix, alternatives in (("", 0), ("logprobs_", _ALTERNATIVES)):
        events = _events(plan.chunks, alternatives)
        arms = {name: _gateway(_app(events), one) for name, one in nets.items()}
        costs: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(plan.answers):
            for name, gateway in arms.items():
                costs[name].append(1e6 * asyncio.run(_answer(gateway)) / plan.chunks)
            progress.advance(task)
        for name, values in costs.items():
            figures |= spread(f"{prefix}{name}_us_per_chunk", values)
            if name != "passed":
                added = median(values) - median(costs["passed"])
                figures[f"{prefix}{name}_added_us_per_chunk"] = round(added, 4)
    counts = {"answers": plan.answers, "chunks": plan.chunks, "traced_mb": plan.megabytes}
    return {**figures, **counts, "method": METHOD}


def _watching(count: int) -> AnswerNets:
    words = invented_phrases(2 * count)
    names = (Phrase(f"{a} {b}") for a, b in zip(words[::2], words[1::2], strict=True))
    matchers = [PhraseMatcher(names, Catch.NAME)]
    return AnswerNets(enforced=(lambda: OutputShield(matchers),))


class _Silent:
    def found(self, finding: Finding) -> None:
        raise AssertionError("an answer of the bench is registered")

    def matched(self, seconds: float) -> None:
        pass


def _tracing(directory: Path, megabytes: float) -> AnswerNets:
    """TraceShield with an index of texts that the answers are not taken from."""
    index = Index(directory, word_view())
    index.add(Document(text) for text in corpus(library(), int(1e6 * megabytes)))
    index.close()
    # The answers are prompts; a threshold that nothing exceeds lets all of every answer be read.
    watched = Watched("bench", "forget", index.view, 8, float("inf"))
    judge = Judge((watched,), (), background())
    return AnswerNets(enforced=(lambda: TraceShield(judge, word_view(), 2000, _Silent()),))


def _gateway(app: ASGIApp, nets: AnswerNets) -> Gateway:
    return Gateway(
        app,
        settings=Settings(state_dir=Path("/nonexistent")),
        guard=_Allowing(nets),
        metrics=GatewayMetrics(CollectorRegistry()),
        keys=KeyRing({}),
        engine=Engine("bench", lambda _: ""),
    )


async def _answer(gateway: Gateway) -> float:
    """CPU seconds of one answer."""
    sent: list[bytes] = []
    requests: list[Message] = [{"type": "http.request", "body": _BODY, "more_body": False}]

    async def receive() -> Message:
        if not requests:
            await asyncio.Event().wait()
        return requests.pop()

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    begin = time.process_time()
    await gateway(scope, receive, send)
    seconds = time.process_time() - begin
    assert sent[-1].endswith(DONE) or sent[-2].endswith(DONE)
    return seconds


def _app(events: Sequence[bytes]) -> ASGIApp:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return stream


def _events(count: int, alternatives: int) -> list[bytes]:
    tokens: list[str] = []
    for word in " ".join(benign_prompts()).split():
        tokens += [f" {word[:5]}", word[5:]] if len(word) > 5 else [f" {word}"]
    others = tokens[count : count + alternatives]
    events = [_event(token, others, None) for token in tokens[: count - 1]]
    return [*events, _event(".", others, "stop"), DONE]


def _event(token: str, others: Sequence[str], reason: str | None) -> bytes:
    def one(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -1.25, "bytes": list(text.encode())}

    logprobs = {"content": [{**one(token), "top_logprobs": [*map(one, others)]}]}
    choice = {
        "index": 0,
        "delta": {"content": token},
        "logprobs": logprobs if others else None,
        "finish_reason": reason,
        "token_ids": None,
    }
    head = {"id": "chatcmpl-" + "0" * 32, "object": "chat.completion.chunk"}
    return encode_event({**head, "created": 1_700_000_000, "model": "bench", "choices": [choice]})
