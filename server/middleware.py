"""The ASGI class that vLLM's `--middleware` adds outermost: the gateway around vLLM's app.

vLLM constructs it in its API process with nothing but the app, so everything else comes from the
environment that `server.launch` prepared and from the app's own state.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Receive, Scope, Send

from server.audit.opening import open_audit
from server.auth import load_keyring
from server.engine_watch import EngineWatch, with_engine_watch
from server.exposition import with_worker_facts
from server.gateway import Gateway
from server.guarding import Engine
from server.keys.counters import Counters
from server.keys.follow import KeysFollower
from server.keys.limits import Limiter
from server.log import configure_logging, hide_texts
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Failure
from server.metrics.workers import WorkerFacts
from server.nodes.standing import NodeGate
from server.screening import Screening
from server.settings import Settings
from server.settings_sources import load_settings
from server.statistics.files import StatisticsFile
from server.statistics.tally import TargetTally
from server.statistics.writer import StatisticsWriter
from server.telemetry import open_telemetry

# The encoder's thread gives up the interpreter's lock at every tensor operation and, while the
# event loop is busy, waits for it again this long. Python's 5 ms would make a 15 ms encoding last
# 100 ms and more.
_SWITCH_SECONDS = 0.0005
# vLLM logs what it fails to convert, and with it what the model said; uvicorn whole URLs.
_ENGINE_LOGGERS = ("", "vllm", "uvicorn", "uvicorn.error", "uvicorn.access")


class GuardMiddleware:
    """The gateway inside vLLM's API process.

    The engine's name and tokenizer are known when the first request arrives: vLLM listens only
    after its engine is up.
    """

    def __init__(self, app: ASGIApp) -> None:
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._app = app
        self._settings = load_settings()
        configure_logging(self._settings.log_level, self._settings.log_format)
        hide_texts(_ENGINE_LOGGERS)
        self._screening = Screening(self._settings)
        self._node = _node(self._settings)
        self._metrics = GatewayMetrics(REGISTRY, self._facts)
        self._tally = TargetTally()
        self._screening.start(self._metrics, self._tally)
        StatisticsWriter(StatisticsFile(self._settings.statistics), self._tally).start()
        self._keys = KeysFollower(self._settings.keys, self._metrics)
        self._keys.start()
        self._limiter = Limiter(Counters(self._settings.keys))
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            # Now uvicorn's loggers have their handlers; when this object was made they had none.
            hide_texts(_ENGINE_LOGGERS)
            await self._app(scope, receive, send)
            return
        if self._gateway is None:
            self._gateway = self._assemble(scope["app"])
        await self._gateway(scope, receive, send)

    def _assemble(self, vllm_app: Any) -> Gateway:
        app = with_worker_facts(self._app, self._facts)
        return Gateway(
            self._watched(app, vllm_app.state.engine_client),
            settings=self._settings,
            guard=self._screening,
            metrics=self._metrics,
            keys=load_keyring(self._settings, self._keys.current),
            engine=_engine(vllm_app),
            limiter=self._limiter,
            audit=open_audit(self._settings, self._metrics.audit),
            node=self._node,
            tally=self._tally,
            telemetry=open_telemetry(self._settings),
        )

    def _watched(self, app: ASGIApp, engine_client: Any) -> ASGIApp:
        """The app, with an eye on its engine."""
        seconds = self._settings.engine_stall_seconds
        if seconds == 0:
            return app
        # Of all questions that vLLM's engines answer in their loop it is the one that does nothing.
        ask = engine_client.is_sleeping
        watch = EngineWatch(ask, seconds, self._metrics.set_engine_silence)
        watch.start()
        count = partial(self._metrics.record_failure, Failure.ENGINE)
        return with_engine_watch(app, watch, count)

    def _facts(self) -> WorkerFacts:
        facts = self._screening.worker_facts()
        return (
            facts
            if self._node is None
            else replace(facts, node_lag_seconds=self._node.lag_seconds())
        )


def _node(settings: Settings) -> NodeGate | None:
    """What keeps a node from serving; None beside a control process."""
    if settings.control_url is None:
        return None
    return NodeGate(settings.state_dir, settings.node_max_lag_seconds)


def _engine(vllm_app: Any) -> Engine:
    args = vllm_app.state.args
    names = args.served_model_name or [args.model]
    tokenizer: Any = None

    def decode(token_ids: Sequence[int]) -> str:
        nonlocal tokenizer
        if tokenizer is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(
                args.tokenizer or args.model,
                revision=args.tokenizer_revision,
                trust_remote_code=args.trust_remote_code,
            )
        return str(
            tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    return Engine(names[0], decode)
