"""Errors of the server, and the one table that turns any error into an OpenAI error.

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

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from detectors.errors import DetectorError, EncoderUnavailable, PromptTooLong, TablesError
from guard.errors import (
    AssistantError,
    AssistantFull,
    AssistantMismatch,
    AssistantUnreadable,
    CompileError,
    CorporaUnusable,
    GuardError,
    GuardParamsError,
    ModelUnreadable,
    PointerFenced,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotMissing,
    SnapshotOutdated,
    TrainingError,
    TrainingStopped,
    VocabularyError,
)


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


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one error class looks to a client; `message` replaces the error's own if given."""

    status: int
    type: str
    code: str
    message: str | None = None


_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_GUARD = ErrorRow(503, _SERVER, "guard_unavailable", "The guard is unavailable.")
_INTERNAL = ErrorRow(500, _SERVER, "internal_error", "The server failed to process the request.")

ERROR_TABLE: dict[type[Exception], ErrorRow] = {
    ServerError: _INTERNAL,
    ClientFault: ErrorRow(400, _CLIENT, "bad_request"),
    InvalidRequest: ErrorRow(400, _CLIENT, "invalid_request"),
    MalformedBody: ErrorRow(400, _CLIENT, "malformed_body"),
    UnsupportedFeature: ErrorRow(400, _CLIENT, "unsupported_feature"),
    ContentFiltered: ErrorRow(400, _CLIENT, "content_filter"),
    InvalidField: ErrorRow(422, _CLIENT, "invalid_field"),
    Unauthorized: ErrorRow(401, "authentication_error", "invalid_api_key"),
    Forbidden: ErrorRow(403, "permission_error", "insufficient_permissions"),
    EndpointNotGuarded: ErrorRow(403, "permission_error", "endpoint_not_guarded"),
    NotFound: ErrorRow(404, _CLIENT, "not_found"),
    MethodNotAllowed: ErrorRow(405, _CLIENT, "method_not_allowed"),
    Conflict: ErrorRow(409, _CLIENT, "conflict"),
    IdempotencyMismatch: ErrorRow(422, _CLIENT, "idempotency_key_reused"),
    PreconditionFailed: ErrorRow(412, _CLIENT, "precondition_failed"),
    BodyTooLarge: ErrorRow(413, _CLIENT, "body_too_large"),
    RateLimited: ErrorRow(429, "requests", "rate_limit_exceeded"),
    RequestsLimited: ErrorRow(429, "requests", "rate_limit_exceeded"),
    TokensLimited: ErrorRow(429, "tokens", "rate_limit_exceeded"),
    ConcurrencyLimited: ErrorRow(429, "requests", "rate_limit_exceeded"),
    UnsupportedMediaType: ErrorRow(415, _CLIENT, "unsupported_media_type"),
    ServerFault: _INTERNAL,
    GuardUnavailable: _GUARD,
    GuardTimeout: ErrorRow(503, _SERVER, "guard_timeout", "The guard took too long."),
    Overloaded: ErrorRow(503, _SERVER, "overloaded"),
    NotReady: ErrorRow(503, _SERVER, "not_ready"),
    AuditUnavailable: ErrorRow(503, _SERVER, "audit_unavailable", "The audit cannot be written."),
    KeysUnreadable: ErrorRow(503, _SERVER, "keys_unavailable", "Keys cannot be checked."),
    LeaseLost: ErrorRow(503, _SERVER, "lease_lost"),
    NodeFenced: ErrorRow(503, _SERVER, "node_fenced", "This node does not serve now."),
    NodeBehind: ErrorRow(503, _SERVER, "node_behind", "This node is not up to date."),
    StoreFault: ErrorRow(500, _SERVER, "store_error", "The store failed."),
    StartFault: _INTERNAL,
    SettingsError: ErrorRow(500, _SERVER, "invalid_settings"),
    StoreVersionError: ErrorRow(500, _SERVER, "store_version"),
    StoreAway: ErrorRow(503, _SERVER, "store_away"),
    ControlRunning: ErrorRow(500, _SERVER, "control_running"),
    NodeFault: ErrorRow(503, _SERVER, "control_unreachable"),
    ControlUnreachable: ErrorRow(503, _SERVER, "control_unreachable"),
    ControlRefused: ErrorRow(502, _SERVER, "control_refused"),
    DamagedFile: ErrorRow(502, _SERVER, "file_damaged"),
    Outdated: ErrorRow(502, _SERVER, "control_outdated"),
    PolicyFault: ErrorRow(500, _SERVER, "policy_error"),
    PolicyNotCompiled: ErrorRow(422, _CLIENT, "policy_not_compiled"),
    PolicyRejected: ErrorRow(500, _SERVER, "policy_rejected"),
    PolicyNotAcknowledged: ErrorRow(503, _SERVER, "policy_not_acknowledged"),
    TrainingFault: ErrorRow(500, _SERVER, "training_error"),
    TrainingRefused: ErrorRow(422, _CLIENT, "training_refused"),
    TrainingTargetGone: ErrorRow(409, _CLIENT, "target_withdrawn"),
    TrainingDied: ErrorRow(500, _SERVER, "trainer_died"),
    CorpusFault: ErrorRow(500, _SERVER, "corpus_error"),
    CorpusDamaged: ErrorRow(500, _SERVER, "corpus_damaged"),
    CorpusRejected: ErrorRow(500, _SERVER, "corpus_rejected"),
    CorpusNotAcknowledged: ErrorRow(503, _SERVER, "corpus_not_acknowledged"),
    CorpusTooLarge: ErrorRow(422, _CLIENT, "corpus_too_large"),
    CorpusNotVetoed: ErrorRow(500, _SERVER, "corpus_not_vetoed"),
    CorpusNotAdopted: ErrorRow(422, _CLIENT, "corpus_not_adopted"),
    GuardError: _GUARD,
    PointerFenced: _GUARD,
    CorporaUnusable: _GUARD,
    GuardParamsError: ErrorRow(
        400,
        _CLIENT,
        "reserved_parameter",
        "vllm_xargs keys beginning with lethegate_ are reserved.",
    ),
    SnapshotError: _GUARD,
    SnapshotMissing: _GUARD,
    SnapshotOutdated: _GUARD,
    SnapshotCorrupt: _GUARD,
    VocabularyError: _GUARD,
    CompileError: ErrorRow(422, _CLIENT, "policy_not_compiled"),
    ModelUnreadable: _GUARD,
    AssistantError: _GUARD,
    AssistantUnreadable: _GUARD,
    AssistantMismatch: _GUARD,
    AssistantFull: _GUARD,
    TrainingError: ErrorRow(422, _CLIENT, "training_refused"),
    TrainingStopped: ErrorRow(409, _CLIENT, "training_stopped"),
    DetectorError: _GUARD,
    EncoderUnavailable: _GUARD,
    TablesError: _GUARD,
    PromptTooLong: ErrorRow(
        400, _CLIENT, "prompt_too_long", "The conversation is too long to be screened."
    ),
}


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as it goes over the wire: `body` has OpenAI's shape."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def row_of(error: BaseException) -> ErrorRow:
    """The table's row for an error: its class, else the nearest base; unknown ones are a 500."""
    return next((ERROR_TABLE[c] for c in type(error).__mro__ if c in ERROR_TABLE), _INTERNAL)


def reply_to(error: BaseException) -> ErrorReply:
    """The reply to any error.

    Foreign exceptions get a fixed message, because theirs may hold a client's text.
    """
    row = row_of(error)
    param = error.param if isinstance(error, ServerError) else None
    headers: dict[str, str] = {}
    if row.status == 401:
        headers["www-authenticate"] = "Bearer"
    if row.status == 503:
        wait = error.retry_after_seconds if isinstance(error, ServerError) else None
        headers["retry-after"] = str(wait or 1)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(sorted(error.allow))
    if isinstance(error, RateLimited):
        headers |= error.headers
        if error.retry_after_seconds is not None:
            headers["retry-after"] = str(error.retry_after_seconds)
    message = row.message or str(error) or row.code.replace("_", " ").capitalize() + "."
    return ErrorReply(row.status, error_body(message, row.type, row.code, param), headers)


def error_body(message: str, type_: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}
