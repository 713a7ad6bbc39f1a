"""What the answer to one call is held against, and where it is written down what was caught."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Send

from guard.nets import AnswerNets, Catch, MakeNet
from server.call import Call
from server.choice_shield import ShieldPolicy
from server.conversation import strings
from server.guarding import Engine, Guard
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import OTHER, SURFACES
from server.observed_response import ObservedResponse
from server.off_loop import off_loop
from server.prefixes import Prefixes
from server.shielded_events import RecordBlock
from server.steering import OutgoingRequest
from server.telemetry import current_trace


class AnswerWatch:
    """Makes it for all calls."""

    def __init__(self, guard: Guard, engine: Engine, metrics: GatewayMetrics) -> None:
        self._guard, self._engine, self._metrics = guard, engine, metrics

    async def prefixes(self, call: Call, nets: AnswerNets) -> Prefixes:
        """What the client wrote of the answer; nothing where no net is going to read it."""
        if not nets.enforced and not nets.observed:
            return Prefixes()
        return await off_loop(len(call.raw), call.api.prefixes, call.body, self._engine.decode)

    def policy(
        self, call: Call, request: OutgoingRequest, nets: AnswerNets, prefixes: Prefixes
    ) -> ShieldPolicy:
        """For an answer that is shielded."""
        nonce = request.nonce
        return ShieldPolicy(
            nets.enforced,
            self._engine.decode,
            lambda: None if nonce is None else self._guard.closed(nonce),
            steered=nonce is not None,
            prefixes=prefixes,
            sent=lambda: (call.raw.decode(), "\n".join(strings(call.body))),
        )

    def plain_policy(self, nets: Sequence[MakeNet], prefixes: Prefixes) -> ShieldPolicy:
        """For an answer that is only read: a stored one, or an observed one."""
        return ShieldPolicy(nets, self._engine.decode, steered=False, prefixes=prefixes)

    def record_block(self, call: Call) -> RecordBlock:
        """Counts and audits what ends an answer."""

        trace = current_trace()

        def record(surface: str, caught: Catch | None) -> None:
            self._metrics.record_shield_block(surface, caught)
            where = surface if surface in SURFACES else OTHER
            trace.note(cut=where, caught=OTHER if caught is None else caught.value)
            call.audit.blocked(surface, caught, enforced=True)

        return record

    def observed(
        self,
        call: Call,
        send: Send,
        request: OutgoingRequest,
        nets: AnswerNets,
        prefixes: Prefixes,
    ) -> Send:
        """A `send` that counts and audits what nets in observe mode catch, and changes nothing."""
        policy = self.plain_policy(nets.observed, prefixes)

        def record(surface: str, caught: Catch | None) -> None:
            self._metrics.record_observed_block(surface, caught)
            call.audit.blocked(surface, caught, enforced=False)

        return ObservedResponse(send, call.api, policy, request.form, record).send
