"""What becomes of a request once it is read: a decision, and an answer under it."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from guard.decision import Decision, Verdict
from server.admission import reject_reserved
from server.answer_watch import AnswerWatch
from server.apis.api import Refused
from server.auth import Role
from server.call import Call
from server.checks import check_result
from server.choice_shield import ShieldPolicy
from server.errors import (
    AuditUnavailable,
    ContentFiltered,
    GuardTimeout,
    GuardUnavailable,
    InvalidRequest,
    KeysUnreadable,
    NodeBehind,
    NodeFenced,
    Overloaded,
)
from server.exchange import adding, readable_scope, run_until, until_cut_short
from server.guarding import Engine, Guard
from server.log import fault_fields, get_logger
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Failure, Stage
from server.off_loop import off_loop
from server.reply import Reply, reply_of
from server.request_body import replay
from server.settings import Settings
from server.shielded_response import Headers, ShieldedResponse, send_reply
from server.sse import encode_json
from server.statistics.tally import TargetTally
from server.steering import OutgoingRequest, steer, untouched
from server.telemetry import current_trace

GENERATION_HEADER = b"x-lethegate-generation"
DECISION_HEADER = b"x-lethegate-decision"
PREVENTED_HEADER = b"x-lethegate-prevented-steps"

log = get_logger("gateway")


class GuardedCalls:
    """Screens calls, refuses or steers them, and holds their answers against the guard's nets."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        guard: Guard,
        metrics: GatewayMetrics,
        engine: Engine,
        tally: TargetTally,
    ) -> None:
        self._app = app
        self._settings = settings
        self._guard = guard
        self._metrics = metrics
        self._engine = engine
        self._tally = tally
        self._watch = AnswerWatch(guard, engine, metrics)

    async def serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide about a request, and answer it or let the engine answer it under the decision.

        Raises:
            ServerError, GuardError: there is no answer, and nothing was sent.
        """
        reject_reserved(call.body)
        begun = time.perf_counter()
        try:
            decision = await self._screen(call)
        except GuardUnavailable as error:
            # A timeout is no fault of the guard: a client can bring it about.
            if not self._settings.fail_open:
                raise
            self._metrics.record_failure(failure_of(error, self._guard))
            self._metrics.record_bypass(failure_of(error, self._guard))
            await self._app(scope, replay(call.raw, receive), send)
            return
        view = self._guard.current()
        if view is None or view.enforces_for(call.caller.scope):
            call.api.reject_unguardable(call.body, media=self._settings.allow_media)
        self._metrics.record_decision(decision)
        self._tally.decided(decision, time.perf_counter() - begun)
        call.audit.decided(decision)
        headers = self._decision_headers(call, decision)
        if decision.verdict is Verdict.REFUSE:
            await self._refuse(call, send, headers)
            return
        await self._let_answer(call, decision, scope, receive, send, headers)

    async def check(self, call: Call, send: Send) -> None:
        """Tell a decision with its reasons. It is recorded, but no client's request."""
        decision = await self._screen(call)
        call.audit.decided(decision)
        reply = Reply(200, encode_json(check_result(decision)))
        await send_reply(send, reply, self._decision_headers(call, decision))

    async def judge_again(self, call: Call, answer: bytes) -> Reply:
        """A whole answer as it may be shown now."""
        decision = await self._screen(call)
        call.audit.decided(decision)
        if decision.verdict is Verdict.REFUSE:
            refusal = self._refusal(call, self._settings.refusal_text)
            return Reply(200, encode_json(refusal.completion()))
        nets = self._guard.nets(decision, call.request_id or "")
        if not nets.enforced:
            return Reply(200, answer)
        prefixes = await self._watch.prefixes(call, nets)
        policy = self._watch.plain_policy(nets.enforced, prefixes)
        record = self._watch.record_block(call)
        return await off_loop(len(answer), call.api.shield_whole, policy, answer, record)

    def generation(self) -> Headers:
        """Headers that tell the policy in force."""
        view = self._guard.current()
        return [] if view is None else [(GENERATION_HEADER, str(view.generation).encode())]

    async def _screen(self, call: Call) -> Decision:
        """The decision; every failure to make one is GuardUnavailable, GuardTimeout or Overloaded.

        Raises:
            InvalidRequest: the prompt has a form that cannot be read.
        """
        if self._guard.current() is None:
            raise GuardUnavailable()
        texts = await off_loop(len(call.raw), call.api.texts, call.body, self._engine.decode)
        begun = time.perf_counter()
        step = current_trace().step("screen", texts=len(texts), characters=sum(map(len, texts)))
        try:
            with step as trace:
                async with asyncio.timeout(self._settings.screen_timeout_seconds):
                    decision = await self._guard.screen(texts, call.caller.scope)
                trace.decided(decision)
        except TimeoutError:
            raise GuardTimeout() from None
        except (Overloaded, GuardTimeout, InvalidRequest):
            raise
        except Exception as error:
            # The guard's own errors say what they are; of others only class and place are told.
            log.error("screening_failed", **fault_fields(error))
            raise GuardUnavailable() from None
        self._metrics.observe_stage(Stage.SCREEN, time.perf_counter() - begun)
        current_trace().decided(decision)
        return decision

    async def _let_answer(
        self,
        call: Call,
        decision: Decision,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Headers,
    ) -> None:
        """Let the engine answer, steered as was decided, and hold its answer against the nets.

        Raises:
            UnsupportedFeature: the answer could not be held against them.
        """
        nets = self._guard.nets(decision, call.request_id or "")
        if nets.enforced:
            call.api.reject_unguardable(call.body, media=self._settings.allow_media)
        if decision.verdict is Verdict.STEER:
            request = steer(call.api, call.body, decision)
        else:
            request = untouched(call.api, call.raw, call.body)
        prefixes = await self._watch.prefixes(call, nets)
        if nets.observed:
            send = self._watch.observed(call, send, request, nets, prefixes)
        shielded = bool(nets.enforced) or request.nonce is not None
        if nets.observed or shielded:
            scope = readable_scope(scope, request.body)
        if shielded:
            policy = self._watch.policy(call, request, nets, prefixes)
            seconds = await self._shield(call, request, policy, scope, receive, send, headers)
            prevented = 0 if request.nonce is None else self._guard.prevented(request.nonce)
            self._tally.shielded(decision, seconds, prevented)
        else:
            with current_trace().to_engine(scope) as inner:
                await self._app(inner, replay(request.body, receive), adding(send, headers))

    async def _shield(
        self,
        call: Call,
        request: OutgoingRequest,
        policy: ShieldPolicy,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Headers,
    ) -> float:
        """Answer; how many seconds were spent on looking through the answer."""
        response = ShieldedResponse(
            send,
            call.api,
            policy,
            request.form,
            headers=headers,
            filtered=lambda: self._refusal(call, ""),
            record_block=self._watch.record_block(call),
            told_last=lambda: self._prevented_header(call, request),
        )
        body = replay(request.body, until_cut_short(receive, response.cut_short))
        trace = current_trace()
        with trace.step("shield"), trace.to_engine(scope) as inner:
            await run_until(self._app(inner, body, response.send), response)
        trace.note(shield_seconds=response.shield_seconds)
        self._metrics.observe_stage(Stage.SHIELD, response.shield_seconds)
        return response.shield_seconds

    async def _refuse(self, call: Call, send: Send, headers: Headers) -> None:
        self._metrics.record_refusal()
        if self._settings.refusal_mode == "error":
            error = ContentFiltered(self._settings.refusal_text, param=call.api.prompt_field)
            await send_reply(send, call.api.error(reply_of(error)), headers)
            return
        refusal = self._refusal(call, self._settings.refusal_text)
        if not call.body.get("stream"):
            await send_reply(send, Reply(200, encode_json(refusal.completion())), headers)
            return
        start = [*headers, (b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        for event in refusal.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _refusal(self, call: Call, text: str) -> Refused:
        return call.api.refusal(call.body, text, self._engine.model, call.request_id)

    def _decision_headers(self, call: Call, decision: Decision) -> Headers:
        headers = [(GENERATION_HEADER, str(decision.generation).encode())]
        if call.caller.role >= Role.AUDITOR:
            headers.append((DECISION_HEADER, decision.verdict.value.encode()))
        return headers

    def _prevented_header(self, call: Call, request: OutgoingRequest) -> Headers:
        """In how many steps the worker kept a phrase from being completed, if it counted any."""
        if request.nonce is None or call.caller.role < Role.AUDITOR:
            return []
        steps = self._guard.prevented(request.nonce)
        return [(PREVENTED_HEADER, str(steps).encode())] if steps else []


def failure_of(error: Exception, guard: Guard) -> Failure:
    """Which of the guard's failures an error is."""
    if isinstance(error, GuardTimeout):
        return Failure.TIMEOUT
    if isinstance(error, Overloaded):
        return Failure.OVERLOADED
    if isinstance(error, KeysUnreadable):
        return Failure.KEYS
    if isinstance(error, NodeFenced | NodeBehind):
        return Failure.NODE
    if isinstance(error, AuditUnavailable):
        return Failure.AUDIT
    return Failure.NO_POLICY if guard.current() is None else Failure.GUARD_ERROR
