"""The gateway: a plain ASGI app around vLLM's, through which every client request passes.

A request is authenticated, read, screened, and then answered with a refusal, or handed on: as it
came, or with the guard's parameters. What comes back runs through the guard's nets. All that the
gateway needs is given to it; it knows neither vLLM nor how a decision is made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from guard.errors import GuardError
from server.apis.table import APIS
from server.audit.events import RequestAudit
from server.audit.writer import NO_AUDIT, Recorder
from server.auth import ANONYMOUS, Caller, KeyRing, Role
from server.call import Call
from server.checks import checked_request, require_auditor
from server.endpoints import (
    Endpoint,
    Handling,
    endpoint_of,
    known_endpoint,
    response_id_of,
    routed_path,
)
from server.errors import EngineStalled, ServerError, UnsupportedFeature
from server.exchange import Started, nothing_more, readable_scope
from server.guarded_calls import GuardedCalls, failure_of
from server.guarding import Engine, Guard
from server.keys.limited import KeyLimits, LimitedRequest
from server.keys.limits import Limiter
from server.log import fault_fields, get_logger
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Stage
from server.nodes.standing import NodeGate
from server.off_loop import off_loop
from server.readiness import readiness
from server.reply import Reply, reply_of
from server.request_body import header, parse_object, read_body, replay, require_json
from server.response_store import ResponseStore
from server.response_turns import ResponseTurns
from server.settings import Settings
from server.shielded_response import send_reply
from server.statistics.tally import TargetTally
from server.telemetry import Telemetry

log = get_logger("gateway")


class Gateway:
    """The ASGI app. Of single requests it holds stored responses only."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        guard: Guard,
        metrics: GatewayMetrics,
        keys: KeyRing,
        engine: Engine,
        limiter: Limiter | None = None,
        audit: Recorder = NO_AUDIT,
        node: NodeGate | None = None,
        tally: TargetTally | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._guard = guard
        self._metrics = metrics
        self._keys = keys
        store = ResponseStore(settings.response_store_bytes, settings.response_store_total_bytes)
        self._turns = ResponseTurns(store, engine.model)
        self._limits = KeyLimits(limiter, settings, metrics)
        self._audit = audit
        self._node = node
        self._telemetry = telemetry or Telemetry()
        self._calls = GuardedCalls(app, settings, guard, metrics, engine, tally or TargetTally())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any kind."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            with self._telemetry.request(scope, send) as traced:
                await self._answer(scope, receive, traced)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "not guarded"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._replying(partial(self._dispatch, scope, receive), scope, send)

    async def _replying(
        self, work: Callable[[Send], Awaitable[None]], scope: Scope, send: Send
    ) -> None:
        """Do what answers a request; an error is the answer, too."""
        started = Started(send)
        try:
            await work(started.send)
        except Exception as error:
            # The inner app's own failures arrive after its 500 has been sent.
            if started.value:
                raise
            if not isinstance(error, ServerError | GuardError):
                log.error("gateway_failed", **fault_fields(error))
            reply = reply_of(error)
            if reply.status >= 500 and not isinstance(error, EngineStalled):
                self._metrics.record_failure(failure_of(error, self._guard))
            await send_reply(send, _in_shape_of(scope, reply), self._calls.generation())

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = endpoint_of(dict(scope))
        caller = self._authenticate(scope, endpoint)
        if self._node is not None and _asks(scope, endpoint):
            self._node.check()
        if endpoint.handling is Handling.CHECKS and scope["method"] == "POST":
            require_auditor(caller)
        if endpoint.handling is Handling.READY:
            serves = self._node is None or self._node.may_serve()
            ready = await readiness(self._guard, self._keys, self._app, scope, may_serve=serves)
            await send_reply(send, ready, [])
        elif endpoint.handling is Handling.RESPONSE:
            with self._limits.request(caller, endpoint, send) as request:
                await self._retrieve(scope, request.send, caller)
        elif endpoint.handling is Handling.RESPONSE_CANCEL:
            reply = await self._turns.cancel(caller.id, response_id_of(scope))
            await send_reply(send, reply, self._calls.generation())
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            with self._limits.request(caller, endpoint, send) as request:
                await self._take(request, endpoint, caller, scope, receive)

    async def _respond(
        self, call: Call, request: LimitedRequest, scope: Scope, receive: Receive
    ) -> None:
        """Make a response: a turn of a conversation, which may be stored."""
        most = request.max_body_bytes
        turn = await self._turns.begin(call.caller.id, call.raw, call.body, most)
        request.reserve(len(turn.raw), turn.body)
        call = replace(call, raw=turn.raw, body=turn.body)
        scope = readable_scope(scope, call.raw)
        if turn.in_background:
            work = partial(self._calls.serve, call, scope, nothing_more)
            reply = await self._turns.start(
                turn,
                lambda sink: self._replying(work, scope, request.metered(sink)),
                request.leave,
            )
            request.goes_on = True
            await send_reply(request.send, reply, self._calls.generation())
        else:
            await self._calls.serve(call, scope, receive, self._turns.recording(turn, request.send))

    async def _retrieve(self, scope: Scope, send: Send, caller: Caller) -> None:
        """Give a stored response, judged under the present policy."""
        if b"stream=true" in scope.get("query_string", b"").lower():
            raise UnsupportedFeature("A stored response is not streamed.", param="stream")
        if self._settings.audit_required:
            self._audit.check()
        id_ = response_id_of(scope)
        stored = self._turns.find(caller.id, id_)
        body = await off_loop(len(stored.request), json.loads, stored.request)
        body |= {"request_id": id_}
        api, request_id = APIS[Handling.RESPONSES], header(scope, b"x-request-id")
        audit = RequestAudit(self._audit, caller.id, request_id, "/v1/responses")
        call = Call(api, stored.request, body, caller, request_id, audit)
        reply = await self._calls.judge_again(call, stored.answer)
        await send_reply(send, reply, self._calls.generation())

    async def _take(
        self,
        request: LimitedRequest,
        endpoint: Endpoint,
        caller: Caller,
        scope: Scope,
        receive: Receive,
    ) -> None:
        """Read the body of a request that its key may make, and serve it."""
        if self._settings.audit_required:
            self._audit.check()
        passes = endpoint.handling is Handling.PASS
        if not passes:
            require_json(scope)
        raw = await read_body(scope, receive, request.max_body_bytes)
        if raw is None:
            return
        if passes:
            # Vectors and counts of texts; nothing is generated.
            request.reserve(len(raw), {"max_tokens": 0})
            await self._app(scope, replay(raw, receive), request.send)
            return
        body = await self._parse(raw)
        request_id = header(scope, b"x-request-id")
        audit = RequestAudit(self._audit, caller.id, request_id, routed_path(scope))
        if endpoint.handling is Handling.RESPONSES:
            call = Call(APIS[Handling.RESPONSES], raw, body, caller, request_id, audit)
            await self._respond(call, request, scope, receive)
            return
        request.reserve(len(raw), body)
        if endpoint.handling is Handling.CHECKS:
            api, body = checked_request(body)
            check = Call(api, raw, body, caller, request_id, audit)
            await self._calls.check(check, request.send)
            return
        call = Call(APIS[endpoint.handling], raw, body, caller, request_id, audit)
        await self._calls.serve(call, scope, receive, request.send)

    def _authenticate(self, scope: Scope, endpoint: Endpoint) -> Caller:
        if not endpoint.needs_key:
            return ANONYMOUS
        role = Role.AUDITOR if endpoint.for_auditors else Role.CLIENT
        return self._keys.admit(_authorization(scope), role)

    async def _parse(self, raw: bytes) -> dict[str, Any]:
        begun = time.perf_counter()
        body = await off_loop(len(raw), parse_object, raw)
        self._metrics.observe_stage(Stage.PARSE, time.perf_counter() - begun)
        return body


def _authorization(scope: Scope) -> str | None:
    """The key as clients of OpenAI send it, else as those of Anthropic do."""
    key = header(scope, b"x-api-key")
    return header(scope, b"authorization") or (None if key is None else f"Bearer {key}")


def _in_shape_of(scope: Scope, reply: Reply) -> Reply:
    """An error of ours as the API of this path tells errors."""
    endpoint = known_endpoint(scope)
    api = None if endpoint is None else APIS.get(endpoint.errors_as or endpoint.handling)
    return reply if api is None else api.error(reply)


def _asks(scope: Scope, endpoint: Endpoint) -> bool:
    """Whether it is a request for what a model says, not a probe or a list."""
    return scope["method"] == "POST" or endpoint.handling is Handling.RESPONSE
