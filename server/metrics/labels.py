"""The closed sets that labels come from."""

from __future__ import annotations

from enum import StrEnum

OTHER = "other"
SURFACES = frozenset(
    {"content", "text", "reasoning", "refusal", "tool_name", "tool_arguments", "logprobs", OTHER}
)
CORPUS_LABELS = ("forget", "unsafe", "licensed", "allowed", "retain")
CLOSED_SLOT_REASONS = frozenset(
    {"snapshot_unavailable", "assistant_unavailable", "bad_params", "nothing_left", "fault", OTHER}
)


class Stage(StrEnum):
    """A step of the request path whose time is measured."""

    PARSE = "parse"
    ENCODE = "encode"
    CLASSIFY = "classify"
    SCREEN = "screen"
    SHIELD = "shield"


class Failure(StrEnum):
    """Why a request failed: a 503, or where the guard did and `fail_open` allows it unguarded."""

    GUARD_ERROR = "guard_error"
    TIMEOUT = "timeout"
    NO_POLICY = "no_policy"
    AUDIT = "audit"
    KEYS = "keys"
    NODE = "node"
    OVERLOADED = "overloaded"
    ENGINE = "engine"


class Limit(StrEnum):
    """Which limit of a key was reached."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


class Storage(StrEnum):
    """What the control process could not read or write."""

    STORE = "store"
    FILES = "files"
