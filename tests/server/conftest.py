"""A small true fake of vLLM, a guard with fixed rules, and a gateway between them on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from detectors.targets import Enforcement, Phrase
from guard.decision import Decision, Verdict
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.ledger import CloseReason
from guard.nets import AnswerNets, Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.audit.opening import open_audit
from server.audit.writer import AuditWriter
from server.auth import KeyRing, Role
from server.gateway import Gateway
from server.guarding import Engine
from server.keys.counters import Counters
from server.keys.limits import Limiter
from server.metrics.gateway import GatewayMetrics
from server.nodes.standing import NodeGate
from server.settings import Settings
from server.statistics.tally import TargetTally
from server.telemetry import Telemetry

DIGEST = "d" * 64


class Vocabulary:
    """Token ids for any strings, given out as they are met."""

    def __init__(self) -> None:
        self._tokens: list[str] = []

    def id(self, token: str) -> int:
        """The id of a token."""
        if token not in self._tokens:
            self._tokens.append(token)
        return self._tokens.index(token)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some ids."""
        return "".join(self._tokens[token_id] for token_id in token_ids)


@dataclass
class FakeVllm:
    """An engine that says what it is told to, in vLLM's JSON, and notices when nobody listens.

    `says` holds one list per choice; a string is a token of content, a dict a whole delta. After
    `waits_after` chunks it says nothing for as long as that is set.
    """

    says: list[list[Any]] = field(default_factory=lambda: [["Hello", " there", "."]])
    finish_reason: str = "stop"
    stop_reason: str | int | None = None
    alternatives: list[tuple[str, float]] = field(default_factory=list)
    token_seconds: float = 0.0
    error: tuple[int, dict[str, Any]] | None = None
    stream_error: dict[str, Any] | None = None
    instead: Callable[[Request], Awaitable[Response]] | None = None
    dies_after: int | None = None
    waits_after: int | None = None
    healthy: bool = True
    hangs: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    raw_bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    chunks_sent: int = 0
    aborted: threading.Event = field(default_factory=threading.Event)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._generate, methods=["POST"]),
                Route("/v1/chat/completions/batch", self._generate, methods=["POST"]),
                Route("/v1/completions", self._generate, methods=["POST"]),
                Route("/v1/messages", self._generate, methods=["POST"]),
                Route("/v1/responses", self._generate, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/detokenize", self._tokenize, methods=["POST"]),
                Route("/generative_scoring", self._tokenize, methods=["POST"]),
            ]
        )

    async def is_sleeping(self) -> bool:
        """What its loop answers between two steps."""
        while self.hangs:  # noqa: ASYNC110  (set from another thread)
            await asyncio.sleep(0.01)
        return False

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "demo", "object": "model"}]})

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": "0.32.0"})

    async def _health(self, _request: Request) -> Response:
        return PlainTextResponse("", status_code=200 if self.healthy else 503)

    async def _tokenize(self, _request: Request) -> Response:
        return JSONResponse({"tokens": [1, 2], "count": 2})

    async def _generate(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw)
        self.raw_bodies.append(raw)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.instead is not None:
            return await self.instead(request)
        if self.error is not None:
            return JSONResponse(self.error[1], status_code=self.error[0])
        chat = request.url.path.startswith("/v1/chat/completions")
        if body.get("stream"):
            events = self._events(body, chat)
            return StreamingResponse(events, media_type="text/event-stream")
        return JSONResponse(self._whole(body, chat), headers={"x-engine": "fake"})

    async def _events(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        try:
            async for event in self._stream(body, chat):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.set()
            raise

    async def _stream(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        options = body.get("stream_options") or {}
        head = self._head(chat, streaming=True)
        if chat:
            for index in range(len(self.says)):
                role = {"role": "assistant", "content": ""}
                yield self._event(head, self._chunk_choice(index, role, [], body, None), options, 0)
        for position in range(max(map(len, self.says))):
            for index, deltas in enumerate(self.says):
                if position >= len(deltas):
                    continue
                await asyncio.sleep(self.token_seconds)
                while self._waits():  # noqa: ASYNC110  (set from another thread)
                    await asyncio.sleep(0.01)
                if self.dies_after is not None and self.chunks_sent >= self.dies_after:
                    raise RuntimeError("the engine is dead")
                last = position == len(deltas) - 1
                delta = deltas[position]
                message = {"content": delta} if isinstance(delta, str) else delta
                tokens = [delta] if isinstance(delta, str) else []
                finish = self.finish_reason if last else None
                choice = self._chunk_choice(index, message, tokens, body, finish, chat=chat)
                yield self._event(head, choice, options, position + 1)
                self.chunks_sent += 1
        if self.stream_error is not None:
            yield f"data: {json.dumps({'error': self.stream_error})}\n\n"
        elif options.get("include_usage"):
            usage_chunk = {**head, "choices": [], "usage": self._usage(sum(map(len, self.says)))}
            yield f"data: {json.dumps(usage_chunk, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"

    def _waits(self) -> bool:
        after = self.waits_after
        return after is not None and self.chunks_sent >= after

    def _event(
        self, head: dict[str, Any], choice: dict[str, Any], options: dict[str, Any], tokens: int
    ) -> str:
        chunk = {**head, "choices": [choice]}
        if options.get("include_usage") and options.get("continuous_usage_stats"):
            chunk["usage"] = self._usage(tokens)
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def _chunk_choice(
        self,
        index: int,
        message: dict[str, Any],
        tokens: list[str],
        body: dict[str, Any],
        finish: str | None,
        *,
        chat: bool = True,
    ) -> dict[str, Any]:
        said = {"delta": message} if chat else {"text": message.get("content", "")}
        choice = {"index": index, **said, "logprobs": self._logprobs(tokens, body, chat)}
        choice |= {"finish_reason": finish}
        if finish is not None:
            choice["stop_reason"] = self.stop_reason
        if body.get("return_token_ids"):
            choice["token_ids"] = [self.vocabulary.id(token) for token in tokens]
        return choice

    def _whole(self, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        choices = []
        for index, deltas in enumerate(self.says):
            tokens = [delta for delta in deltas if isinstance(delta, str)]
            message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens) or None}
            for delta in deltas:
                if isinstance(delta, dict):
                    _merge(message, delta)
            said = {"message": message} if chat else {"text": "".join(tokens)}
            choice = {"index": index, **said, "logprobs": self._logprobs(tokens, body, chat)}
            choice |= {"finish_reason": self.finish_reason, "stop_reason": self.stop_reason}
            choice["token_ids"] = None
            if body.get("return_token_ids"):
                choice["token_ids"] = [self.vocabulary.id(token) for token in tokens]
            choices.append(choice)
        usage = self._usage(sum(map(len, self.says)))
        return {**self._head(chat, streaming=False), "choices": choices, "usage": usage}

    def _logprobs(self, tokens: list[str], body: dict[str, Any], chat: bool) -> Any:
        if not body.get("logprobs") or not tokens:
            return None
        as_ids = body.get("return_tokens_as_token_ids")

        def name(token: str) -> str:
            return f"token_id:{self.vocabulary.id(token)}" if as_ids else token

        named = [name(token) for token in tokens]
        rest = [(name(token), logprob) for token, logprob in self.alternatives]
        if chat:
            others = [{"token": t, "logprob": p, "bytes": None} for t, p in rest]
            own = [{"token": t, "logprob": -0.5, "bytes": None} for t in named]
            return {"content": [{**o, "top_logprobs": [o, *others]} for o in own]}
        return {
            "tokens": named,
            "token_logprobs": [-0.5] * len(named),
            "text_offset": [0] * len(named),
            "top_logprobs": [{t: -0.5, **dict(rest)} for t in named],
        }

    def _head(self, chat: bool, *, streaming: bool) -> dict[str, Any]:
        kind = "chat.completion" if chat else "text_completion"
        return {
            "id": "chatcmpl-1" if chat else "cmpl-1",
            "object": kind + ".chunk" if chat and streaming else kind,
            "created": 1_700_000_000,
            "model": "demo",
        }

    def _usage(self, tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 5, "total_tokens": 5 + tokens, "completion_tokens": tokens}


def _merge(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to a whole message, as a client would."""
    for key, value in delta.items():
        if key != "tool_calls":
            message[key] = (message.get(key) or "") + value
            continue
        calls = message.setdefault("tool_calls", [])
        for part in value:
            if part["index"] == len(calls):
                calls.append({"id": "t", "type": "function", "function": {"arguments": ""}})
            function = calls[part["index"]]["function"]
            for name, text in part["function"].items():
                function[name] = function.get(name, "") + text


@dataclass(frozen=True)
class View:
    """A policy in force."""

    generation: int = 7
    enforces: bool = True

    def enforces_for(self, scope: KeyScope) -> bool:
        """Whether any target is enforced against a key."""
        return self.enforces and scope.enforcement is Enforcement.ENFORCE


@dataclass
class RuleGuard:
    """A guard with fixed rules: a text with `verdicts`' key gets its verdict."""

    view: View | None = field(default_factory=View)
    verdicts: dict[str, Verdict] = field(
        default_factory=lambda: {"about John": Verdict.STEER, "about Mary": Verdict.REFUSE}
    )
    forbidden: list[Phrase] = field(default_factory=lambda: [Phrase("John Smith")])
    names: list[Phrase] = field(default_factory=list)
    observed_names: list[Phrase] = field(default_factory=list)
    nets_error: Exception | None = None
    error: Exception | None = None
    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)
    close_reason: CloseReason | None = None
    prevented_steps: int = 0
    screened: list[list[str]] = field(default_factory=list)
    scopes: list[KeyScope] = field(default_factory=list)
    nonces: list[int] = field(default_factory=list)

    def current(self) -> View | None:
        """The policy in force."""
        return self.view

    def unready(self) -> list[str]:
        """Parts that are not ready."""
        return self.missing

    async def screen(self, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Decision:
        """Decide by the rules."""
        self.screened.append(list(texts))
        self.scopes.append(scope)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        assert self.view is not None
        found = [v for key, v in self.verdicts.items() if any(key in text for text in texts)]
        verdict = found[0] if found else Verdict.ALLOW
        targets = (0,) if verdict is Verdict.STEER else ()
        decided = Decision(verdict, self.view.generation, DIGEST, targets=targets, scope=scope)
        if scope.enforcement is Enforcement.ENFORCE:
            return decided
        return replace(decided, verdict=Verdict.ALLOW, targets=(), would=decided)

    def nets(self, decision: Decision, request_id: str = "") -> AnswerNets:
        """All forbidden phrases in steered answers, names in every answer."""
        if self.nets_error is not None:
            raise self.nets_error
        judged = decision.would or decision
        phrases = self.forbidden if judged.verdict is Verdict.STEER else []
        matchers = [PhraseMatcher(phrases), PhraseMatcher(self.names, Catch.NAME)]
        observed = [PhraseMatcher(self.observed_names, Catch.NAME)]
        nets = AnswerNets(
            (lambda: OutputShield(matchers),) if any(matchers) else (),
            (lambda: OutputShield(observed),) if any(observed) else (),
        )
        return nets if decision.would is None else AnswerNets((), nets.enforced + nets.observed)

    def closed(self, nonce: int) -> CloseReason | None:
        """The reason that the test gave."""
        self.nonces.append(nonce)
        return self.close_reason

    def prevented(self, nonce: int) -> int:
        """What the test gave."""
        return self.prevented_steps


@dataclass
class Stack:
    """A running gateway with everything around it."""

    vllm: FakeVllm
    guard: RuleGuard
    registry: CollectorRegistry
    url: str
    http: httpx.Client
    counters: Counters
    audit: AuditWriter

    def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        """POST a chat."""
        body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, prompt: Any = "hi", **fields: Any) -> httpx.Response:
        """POST a completion."""
        return self.http.post("/v1/completions", json={"model": "demo", "prompt": prompt, **fields})

    def count(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(metric, labels) or 0.0


StartStack = Callable[..., Stack]


@pytest.fixture
def start_stack(tmp_path: Any) -> Iterator[StartStack]:
    """Starts gateways on loopback ports, each before its own fake engine."""
    stopping: list[Callable[[], None]] = []

    def start(
        keys: dict[str, Role] | None = None,
        keyring: KeyRing | None = None,
        guard: Any = None,
        node: NodeGate | None = None,
        tally: TargetTally | None = None,
        telemetry: Telemetry | None = None,
        around: Callable[[FakeVllm, GatewayMetrics], ASGIApp] | None = None,
        **settings: Any,
    ) -> Stack:
        vllm, registry = FakeVllm(), CollectorRegistry()
        guard = guard or RuleGuard()
        counters = Counters(tmp_path / "keys")
        used = Settings(state_dir=tmp_path, **settings)
        audit = open_audit(used, (metrics := GatewayMetrics(registry)).audit)
        gateway = Gateway(
            around(vllm, metrics) if around else vllm.app(),
            settings=used,
            guard=guard,
            metrics=metrics,
            keys=keyring or KeyRing(keys or {}),
            engine=Engine("demo", vllm.vocabulary.decode),
            limiter=Limiter(counters),
            audit=audit,
            node=node,
            tally=tally,
            telemetry=telemetry,
        )
        url, stop = _serve(gateway)
        http = httpx.Client(base_url=url, timeout=60)
        stopping.extend((counters.close, audit.stop, stop, http.close))
        return Stack(vllm, guard, registry, url, http, counters, audit)

    yield start
    for stop in reversed(stopping):
        stop()


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    """One gateway with default settings."""
    return start_stack()


def _serve(app: Any) -> tuple[str, Callable[[], None]]:
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=10)

    return f"http://127.0.0.1:{port}", stop


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of two layers of random weights over bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("byte-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", *alphabet])}
    bytewise = Tokenizer(models.BPE(vocabulary, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = LlamaConfig(vocab_size=len(vocabulary), eos_token_id=0, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
