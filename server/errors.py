"""Errors of the server; `server.error_table` says how each looks to a client.

ServerError
├── ClientFault               the caller can mend it
│   ├── InvalidRequest        400: body or field that the OpenAI surface cannot take
│   │   ├── MalformedBody     400: not JSON, not UTF-8, not an object
│   │   └── UnsupportedFeature 400: a request feature that cannot be guarded
│   ├── ContentFiltered       400: refused by a target with refusal mode "error"
│   ├── InvalidField          422: a field of the admin API
│   ├── Unauthorized          401: no key, or an unknown one
│   ├── Forbidden             403: a key without the right
│   ├── EndpointNotGuarded    403: a route that the guard does not cover
│   ├── NotFound              404
│   ├── MethodNotAllowed      405
│   ├── Conflict              409: the id exists, or is being withdrawn
│   ├── IdempotencyMismatch   422: another request had this Idempotency-Key
│   ├── PreconditionFailed    412: If-Match names another revision
│   ├── BodyTooLarge          413
│   ├── RateLimited           429: a limit of the key is reached
│   │   ├── RequestsLimited   429: of requests per minute
│   │   ├── TokensLimited     429: of tokens per minute
│   │   └── ConcurrencyLimited 429: of requests at once
│   └── UnsupportedMediaType  415
├── ServerFault               the caller can only try again
│   ├── GuardUnavailable      503: no decision can be made, so nothing is served
│   ├── GuardTimeout          503: screening took too long
│   ├── Overloaded            503
│   ├── EngineStalled         503: the engine steps no more
│   ├── NotReady              503: starting, or without a policy
│   ├── KeysUnreadable        503: nobody can tell which keys are good
│   ├── AuditUnavailable      503: what was asked for could not be recorded
│   ├── NodeFenced            503: the operator keeps this node from serving
│   ├── NodeBehind            503: this node does not know what is in force, or not for too long
│   ├── LeaseLost             503: another control process leads by now
│   └── StoreFault            500: the store cannot be read or written
├── StartFault                the process does not start
│   ├── SettingsError         a setting is unknown or cannot be parsed
│   ├── StoreVersionError     the store was written by another version
│   ├── StoreAway             the database server does not answer now
│   └── ControlRunning        another control process owns the state directory
├── NodeFault                 a node cannot follow its control process now
│   ├── ControlUnreachable    there is no answer, or none of a process that leads
│   │   └── CertificateNotTrusted  what answers cannot prove who it is
│   └── ControlRefused        an answer cannot be used, or a key is not taken
│       ├── DamagedFile       a file came with other content than its digest says
│       └── Outdated          what it says is older than what this node knows
├── PolicyFault               a policy did not come into force; the last good one rules
│   ├── PolicyNotCompiled     the compiler refused it
│   ├── PolicyRejected        a follower could not load it
│   └── PolicyNotAcknowledged a live follower did not answer in time
├── TrainingFault             an assistant was not trained
│   ├── TrainingRefused       the trainer cannot train this
│   ├── TrainingTargetGone    a target was withdrawn meanwhile
│   └── TrainingDied          the trainer ended again and again
└── CorpusFault               a change of a corpus did not come into force everywhere
    ├── CorpusDamaged         its index cannot be read
    ├── CorpusRejected        a gateway could not load it
    ├── CorpusNotAcknowledged a live gateway did not answer in time
    ├── CorpusTooLarge        more text than may be vetoed
    ├── CorpusNotVetoed       the policy that vetoes it is not in force
    └── CorpusNotAdopted      the index it was to take over cannot be taken

Messages never hold forget text or a value that a client sent.
"""

from __future__ import annotations

from collections.abc import Collection


class ServerError(Exception):
    """Base of all errors of this package.

    `param` names the field at fault, `retry_after_seconds` becomes a Retry-After header.
    """

    def __init__(
        self, message: str = "", *, param: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_seconds = retry_after_seconds


class ClientFault(ServerError):
    """The caller can mend it."""


class InvalidRequest(ClientFault):
    """The OpenAI surface cannot take this body or field."""


class MalformedBody(InvalidRequest):
    """The body is not a JSON object in UTF-8."""


class UnsupportedFeature(InvalidRequest):
    """A request feature that cannot be guarded."""


class ContentFiltered(ClientFault):
    """The request was refused, and the refusal mode is "error"."""


class InvalidField(ClientFault):
    """A field of the admin API is missing, of the wrong type or out of bounds."""


class Unauthorized(ClientFault):
    """No key was given, or an unknown one."""


class Forbidden(ClientFault):
    """The key is known but has no right to this."""


class EndpointNotGuarded(ClientFault):
    """The guard does not cover this route, so it is closed."""


class NotFound(ClientFault):
    """There is no such resource."""


class MethodNotAllowed(ClientFault):
    """The resource has no such method; `allow` names those it has."""

    def __init__(self, message: str = "", *, allow: Collection[str] = ()) -> None:
        super().__init__(message)
        self.allow = allow


class Conflict(ClientFault):
    """The resource's state does not allow it."""


class IdempotencyMismatch(ClientFault):
    """Another request had this Idempotency-Key."""


class PreconditionFailed(ClientFault):
    """If-Match names a revision that is not the current one."""


class BodyTooLarge(ClientFault):
    """The body is longer than the setting allows."""


class RateLimited(ClientFault):
    """A limit of the key is reached; `headers` tell how it stands."""

    def __init__(self, message: str = "", *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.headers: dict[str, str] = {}


class RequestsLimited(RateLimited):
    """Too many requests in a minute."""


class TokensLimited(RateLimited):
    """Too many tokens in a minute."""


class ConcurrencyLimited(RateLimited):
    """Too many requests at once."""


class UnsupportedMediaType(ClientFault):
    """The body is not declared as JSON."""


class ServerFault(ServerError):
    """The caller can only try again."""


class GuardUnavailable(ServerFault):
    """No decision can be made, so nothing is served."""


class GuardTimeout(ServerFault):
    """Screening the request took too long."""


class Overloaded(ServerFault):
    """Too much at once."""


class EngineStalled(ServerFault):
    """The engine lives, but has answered nothing for longer than any step may take."""


class NotReady(ServerFault):
    """The process is starting, or has no policy yet."""


class KeysUnreadable(ServerFault):
    """The published list of keys is missing or damaged, so nobody is let in by it."""


class LeaseLost(ServerFault):
    """Another control process has taken the lease, so this one must write nothing more."""


class AuditUnavailable(ServerFault):
    """The audit cannot be written, so what must be recorded may not happen."""


class NodeFenced(ServerFault):
    """The operator keeps this node from serving."""


class NodeBehind(ServerFault):
    """This node was never current, or has not been known to be for longer than it may."""


class StoreFault(ServerFault):
    """The store cannot be read or written."""


class StartFault(ServerError):
    """The process does not start."""


class SettingsError(StartFault):
    """A setting is unknown or cannot be parsed."""


class StoreVersionError(StartFault):
    """The store was written by another version of Lethegate."""


class StoreAway(StartFault):
    """The database server does not answer now."""


class ControlRunning(StartFault):
    """Another control process owns the state directory."""


class NodeFault(ServerError):
    """A node cannot follow its control process now; it goes on with what it has."""


class ControlUnreachable(NodeFault):
    """No control process that leads answers."""


class CertificateNotTrusted(ControlUnreachable):
    """What answers has a certificate that has expired, is another's or is signed by a stranger."""


class ControlRefused(NodeFault):
    """The control process refuses, or what it says cannot be used."""


class DamagedFile(ControlRefused):
    """A file came with other content than its digest says, or without end."""


class Outdated(ControlRefused):
    """What the control process says is older than what this node knows."""


class PolicyFault(ServerError):
    """A policy did not come into force; the last good one rules."""


class PolicyNotCompiled(PolicyFault):
    """The targets cannot be compiled."""


class PolicyRejected(PolicyFault):
    """A follower could not load the policy."""


class PolicyNotAcknowledged(PolicyFault):
    """A live follower did not acknowledge the policy in time."""


class TrainingFault(ServerError):
    """An assistant was not trained."""


class TrainingRefused(TrainingFault):
    """The trainer cannot train this."""


class TrainingTargetGone(TrainingFault):
    """A target of the training was withdrawn before it had ended."""


class TrainingDied(TrainingFault):
    """The trainer ended again and again."""


class CorpusFault(ServerError):
    """A change of a corpus did not come into force everywhere."""


class CorpusDamaged(CorpusFault):
    """The index of a corpus cannot be read."""


class CorpusRejected(CorpusFault):
    """A gateway could not load the corpora; it goes on with those it has."""


class CorpusNotAcknowledged(CorpusFault):
    """A live gateway did not acknowledge the corpora in time."""


class CorpusTooLarge(CorpusFault):
    """The vetoed corpora would have more text than the setting allows; nothing was added."""


class CorpusNotVetoed(CorpusFault):
    """The policy with the corpus's documents in its veto did not come into force."""


class CorpusNotAdopted(CorpusFault):
    """An index cannot be taken over: it is missing, damaged or of another kind."""
