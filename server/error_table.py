"""The one table that turns any error into an OpenAI error."""

from __future__ import annotations

from collections.abc import Mapping
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
from server.errors import (
    AuditUnavailable,
    BodyTooLarge,
    CertificateNotTrusted,
    ClientFault,
    ConcurrencyLimited,
    Conflict,
    ContentFiltered,
    ControlRefused,
    ControlRunning,
    ControlUnreachable,
    CorpusDamaged,
    CorpusFault,
    CorpusNotAcknowledged,
    CorpusNotAdopted,
    CorpusNotVetoed,
    CorpusRejected,
    CorpusTooLarge,
    DamagedFile,
    EndpointNotGuarded,
    EngineStalled,
    Forbidden,
    GuardTimeout,
    GuardUnavailable,
    IdempotencyMismatch,
    InvalidField,
    InvalidRequest,
    KeysUnreadable,
    LeaseLost,
    MalformedBody,
    MethodNotAllowed,
    NodeBehind,
    NodeFault,
    NodeFenced,
    NotFound,
    NotReady,
    Outdated,
    Overloaded,
    PolicyFault,
    PolicyNotAcknowledged,
    PolicyNotCompiled,
    PolicyRejected,
    PreconditionFailed,
    RateLimited,
    RequestsLimited,
    ServerError,
    ServerFault,
    SettingsError,
    StartFault,
    StoreAway,
    StoreFault,
    StoreVersionError,
    TokensLimited,
    TrainingDied,
    TrainingFault,
    TrainingRefused,
    TrainingTargetGone,
    Unauthorized,
    UnsupportedFeature,
    UnsupportedMediaType,
)


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
    EngineStalled: ErrorRow(503, _SERVER, "engine_stalled", "The engine does not answer."),
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
    CertificateNotTrusted: ErrorRow(503, _SERVER, "control_certificate"),
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
