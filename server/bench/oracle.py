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
from server.metrics import GatewayMetrics
from server.screening import Screening
from server.settings import Settings
from server.sse import DONE, encode_event, encode_json

METHOD = (
    "The real screening (encoder, classifier, policy of one steering and two refusing targets) and "
    "gateway before an app that answers at once; no network and no engine. Milliseconds from the "
    "request to the first byte of a streamed answer, arms by turns, every prompt new and of the "
    "same form; repeated: a prompt that was asked before. told_by_time: the probability that a "
    "request of the first arm takes longer than one of the second; 0.5: nothing can be told."
)
_START_SECONDS = 120.0
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
    names = invented_phrases(8)
    arms = {
        "unmatched": f"{names[0]} {names[1]}",
        "steered": f"{names[2]} {names[3]}",
        "refused_small": f"{names[4]} {names[5]}",
        "refused_large": f"{names[6]} {names[7]}",
    }
    with tempfile.TemporaryDirectory(prefix="lethegate-bench-") as directory:
        settings = Settings(
            state_dir=Path(directory), encoder=plan.encoder, encoder_device=plan.encoder_device
        )
        _publish(settings, arms)
        gateway = _gateway(settings)
        times = asyncio.run(_measure(gateway, arms, plan.requests, progress))
    figures: dict[str, Any] = {"requests": plan.requests, "method": METHOD}
    for arm, values in times.items():
        figures |= spread(f"{arm}_ms", values)
    for one, other in _PAIRS:
        figures[f"told_by_time_{one}_{other}"] = round(_told(times[one], times[other]), 3)
    return figures


def _publish(settings: Settings, arms: dict[str, str]) -> None:
    """Compile and put in force one small target per matched arm, and one with much to match."""
    device = None if settings.encoder_device == "auto" else settings.encoder_device
    more = tuple(Phrase(phrase) for phrase in invented_phrases(2_000)[8:])
    targets = []
    for arm, name in arms.items():
        if arm == "unmatched":
            continue
        large = arm == "refused_large"
        example = Example(f"Where was {name} born?", "In a town that nobody knows.")
        refuses = arm.startswith("refused")
        targets.append(
            ForgetTarget(
                arm.replace("_", "-"),
                aliases=(name,),
                examples=(example,),
                phrases=more if large else (),
                action=Action.REFUSE if refuses else Action.STEER,
            )
        )
    compiled = compile_policy(
        targets,
        encoder=load_encoder(settings.encoder, device=device),
        vocabulary=Vocabulary([None, *(bytes([value]) for value in range(256))]),
        snapshots=settings.snapshots,
        alpha=settings.alpha,
        progress=lambda stage, done: None,
    )
    ActivePointer(settings.state_dir).publish(1, compiled.digest)


def _gateway(settings: Settings) -> Gateway:
    screening = Screening(settings)
    metrics = GatewayMetrics(CollectorRegistry(), screening.worker_facts)
    screening.start(metrics)
    end = time.monotonic() + _START_SECONDS
    while screening.current() is None:
        if time.monotonic() > end:
            raise TimeoutError("the policy did not come into force")
        time.sleep(0.01)
    return Gateway(
        _app(),
        settings=settings,
        guard=screening,
        metrics=metrics,
        keys=KeyRing({}),
        engine=Engine("bench", lambda _: ""),
    )


async def _measure(
    gateway: Gateway, arms: dict[str, str], requests: int, progress: Progress
) -> dict[str, list[float]]:
    task = progress.add_task("asking", total=requests)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    times |= {"repeated_unmatched": [], "repeated_steered": []}
    names = list(arms)
    for turn in range(requests):
        # Another arm first each time.
        for arm in names[turn % len(names) :] + names[: turn % len(names)]:
            prompt = f"Where was {arms[arm]} born, asks visitor number {turn} of the day?"
            times[arm].append(await _first_byte(gateway, prompt))
            if f"repeated_{arm}" in times:
                times[f"repeated_{arm}"].append(await _first_byte(gateway, prompt))
        progress.advance(task)
    return times


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
