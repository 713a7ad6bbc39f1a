"""`lethegate bench oracle`: can a client tell by the clock what is registered?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from rich.progress import Progress
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detectors.encoder import load_encoder
from detectors.targets import Action, Example, ForgetTarget, Phrase
from guard.compiler import compile_policy
from guard.follower import ActivePointer
from guard.vocabulary import Vocabulary
from server.auth import KeyRing
from server.bench.figures import spread
from server.bench.spellings import invented_phrases
from server.gateway import Gateway
from server.guarding import Engine
from server.metrics.gateway import GatewayMetrics
from server.screening import Screening
from server.settings import Settings
from server.sse import DONE, encode_event, encode_json

METHOD = (
    "The real screening (encoder, classifier, policy of one steering and two refusing targets) and "
    "gateway before an app that answers at once; no network and no engine. Milliseconds from the "
    "request to the first byte of a streamed answer, arms by turns, every prompt new and of the "
    "same form; under each of four policies another name has another arm, so that all arms have "
    "all names; repeated: a prompt that was asked before. told_by_time: the probability that a "
    "request of the first arm takes longer than one of the second; 0.5: nothing can be told."
)
_START_SECONDS = 120.0
_ARMS = ("unmatched", "steered", "refused_small", "refused_large")
_REPEATED = ("repeated_unmatched", "repeated_steered")
# Arms whose times are compared: matched or not, which of two targets refused, and both repeated.
_PAIRS = (
    ("steered", "unmatched"),
    ("refused_large", "refused_small"),
    ("repeated_steered", "repeated_unmatched"),
)


@dataclass(frozen=True, slots=True)
class OraclePlan:
    """What to measure."""

    requests: int
    encoder: str
    encoder_device: str


def bench_oracle(plan: OraclePlan, progress: Progress) -> dict[str, Any]:
    """Milliseconds per arm, and what two arms' times tell; flat figures."""
    words = invented_phrases(2 * len(_ARMS))
    names = [f"{one} {other}" for one, other in zip(words[::2], words[1::2], strict=True)]
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as directory:
        settings = Settings(
            state_dir=Path(directory), encoder=plan.encoder, encoder_device=plan.encoder_device
        )
        screening = Screening(settings)
        metrics = GatewayMetrics(CollectorRegistry(), screening.worker_facts)
        screening.start(metrics)
        gateway = _gateway(settings, screening, metrics)
        task = progress.add_task("asking", total=plan.requests)
        times: dict[str, list[float]] = {arm: [] for arm in (*_ARMS, *_REPEATED)}
        for turn in range(len(_ARMS)):
            arms = dict(zip(_ARMS, names[turn:] + names[:turn], strict=True))
            _publish(settings, screening, arms, turn + 1)
            count = max(1, plan.requests // len(_ARMS))
            asyncio.run(_measure(gateway, arms, range(turn * count, (turn + 1) * count), times))
            progress.advance(task, count)
    figures: dict[str, Any] = {"requests": plan.requests, "method": METHOD}
    for arm, values in times.items():
        figures |= spread(f"{arm}_ms", values)
    for one, other in _PAIRS:
        figures[f"told_by_time_{one}_{other}"] = round(_told(times[one], times[other]), 3)
    return figures


def _publish(
    settings: Settings, screening: Screening, arms: dict[str, str], generation: int
) -> None:
    """Put in force one small target for each matched arm, and one with much to match."""
    device = None if settings.encoder_device == "auto" else settings.encoder_device
    compiled = compile_policy(
        [_target(arm, name) for arm, name in arms.items() if arm != "unmatched"],
        encoder=load_encoder(settings.encoder, device=device),
        vocabulary=Vocabulary([None, *(bytes([value]) for value in range(256))]),
        snapshots=settings.snapshots,
        alpha=settings.alpha,
        progress=lambda stage, done: None,
    )
    ActivePointer(settings.state_dir).publish(generation, compiled.digest)
    end = time.monotonic() + _START_SECONDS
    while (policy := screening.current()) is None or policy.generation != generation:
        if time.monotonic() > end:
            raise TimeoutError("the policy did not come into force")
        time.sleep(0.01)


def _target(arm: str, name: str) -> ForgetTarget:
    more = invented_phrases(500)[2 * len(_ARMS) :] if arm == "refused_large" else ()
    return ForgetTarget(
        arm.replace("_", "-"),
        aliases=(name,),
        examples=(Example(f"Where was {name} born?", "In a town that nobody knows."),),
        phrases=tuple(Phrase(phrase) for phrase in more),
        action=Action.REFUSE if arm.startswith("refused") else Action.STEER,
    )


def _gateway(settings: Settings, screening: Screening, metrics: GatewayMetrics) -> Gateway:
    return Gateway(
        _app(),
        settings=settings,
        guard=screening,
        metrics=metrics,
        keys=KeyRing({}),
        engine=Engine("bench", lambda _: ""),
    )


async def _measure(
    gateway: Gateway, arms: dict[str, str], numbers: range, times: dict[str, list[float]]
) -> None:
    for turn in numbers:
        # Another arm first each time.
        for arm in _ARMS[turn % len(_ARMS) :] + _ARMS[: turn % len(_ARMS)]:
            prompt = f"Where was {arms[arm]} born, asks visitor number {turn} of the day?"
            times[arm].append(await _first_byte(gateway, prompt))
            if f"repeated_{arm}" in times:
                times[f"repeated_{arm}"].append(await _first_byte(gateway, prompt))


async def _first_byte(gateway: Gateway, prompt: str) -> float:
    """Milliseconds until the first byte of an answer's body."""
    messages = [{"role": "user", "content": prompt}]
    body = encode_json({"model": "bench", "messages": messages, "stream": True})
    incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    first: list[float] = []

    async def receive() -> Message:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop()

    async def send(message: Message) -> None:
        if message.get("body") and not first:
            first.append(time.perf_counter())

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    begin = time.perf_counter()
    await gateway(scope, receive, send)
    return 1e3 * (first[0] - begin)


def _app() -> ASGIApp:
    """Answers at once with a few chunks."""
    words = [" That", " is", " not", " known", "."]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    events = [
        encode_event(
            {**head, "choices": [{"index": 0, "delta": {"content": w}, "finish_reason": None}]}
        )
        for w in words
    ]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in (*events, DONE):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer


def _told(one: Sequence[float], other: Sequence[float]) -> float:
    """P(a time of `one` is greater than one of `other`), ties counted half (Mann and Whitney)."""
    a, b = np.asarray(one)[:, None], np.asarray(other)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())
