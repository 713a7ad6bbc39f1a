"""Which routes exist for clients. Deny by default: what is not in this table is closed.

What vLLM serves and this server does not is written down in `CLOSED`, so that a test which walks
vLLM's own route table finds every route that a new version adds.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.errors import EndpointNotGuarded, MethodNotAllowed


class Handling(StrEnum):
    """What the gateway does with a route."""

    CHAT = "chat"
    CHAT_BATCH = "chat_batch"
    COMPLETIONS = "completions"
    MESSAGES = "messages"
    RESPONSES = "responses"
    RESPONSE = "response"
    RESPONSE_CANCEL = "response_cancel"
    CHECKS = "checks"
    PASS = "pass"  # noqa: S105
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One open route.

    Probes need no key even where clients do; what is the operator's needs an auditor's key there.
    `errors_as` names the API whose clients come here, where that is not the handling itself.
    """

    handling: Handling
    method: str
    needs_key: bool = True
    for_auditors: bool = False
    errors_as: Handling | None = None


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(Handling.CHAT, "POST"),
    "/v1/chat/completions/batch": Endpoint(Handling.CHAT_BATCH, "POST"),
    "/v1/completions": Endpoint(Handling.COMPLETIONS, "POST"),
    "/v1/messages": Endpoint(Handling.MESSAGES, "POST"),
    "/v1/responses": Endpoint(Handling.RESPONSES, "POST"),
    # The gateway's own store; the engine's is never asked.
    "/v1/responses/{response_id}": Endpoint(Handling.RESPONSE, "GET"),
    "/v1/responses/{response_id}/cancel": Endpoint(Handling.RESPONSE_CANCEL, "POST"),
    # The gateway's own; nothing reaches the engine.
    "/v1/checks": Endpoint(Handling.CHECKS, "POST"),
    "/v1/models": Endpoint(Handling.PASS, "GET"),
    # Counts and vectors of the client's own texts are not generation.
    "/tokenize": Endpoint(Handling.PASS, "POST"),
    "/v1/messages/count_tokens": Endpoint(Handling.PASS, "POST", errors_as=Handling.MESSAGES),
    "/v1/embeddings": Endpoint(Handling.PASS, "POST"),
    # Counters tell whether a prompt was steered, and how many tokens were forbidden in it.
    "/metrics": Endpoint(Handling.PASS, "GET", for_auditors=True),
    "/version": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/health": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/ping": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/readyz": Endpoint(Handling.READY, "GET", needs_key=False),
}
# Routes of vLLM that stay closed, with whatever flags and variables it is started.
CLOSED = {
    # Documentation of the server behind this one.
    "GET /openapi.json",
    "GET /docs",
    "GET /docs/oauth2-redirect",
    "GET /redoc",
    # Token ids would become text outside the shield.
    "POST /detokenize",
    # A likelihood, a score or a choice among given answers tells what is known.
    "POST /generative_scoring",
    "POST /v1/systemone",
    "POST /pooling",
    "POST /classify",
    "POST /score",
    "POST /v1/score",
    "POST /rerank",
    "POST /v1/rerank",
    "POST /v2/rerank",
    # Generation in a form that the shield does not read.
    "POST /invocations",
    "POST /inference/v1/generate",
    "POST /inference/v1/abort_requests",
    "POST /v1/chat/completions/render",
    "POST /v1/messages/render",
    "POST /v1/completions/render",
    "POST /v1/responses/render",
    "POST /v1/chat/completions/derender",
    "POST /v1/completions/derender",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "WEBSOCKET /v1/realtime",
    # Another vendor's form of /v1/embeddings.
    "POST /v2/embed",
    # The operator's, not clients'.
    "POST /ping",
    "GET /load",
    "GET /kv_event_sources",
    "GET /server_info",
    "POST /start_profile",
    "POST /stop_profile",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
    "POST /adapters",
    "DELETE /adapters/{adapter_name}",
    "POST /scale_elastic_ep",
    "POST /is_scaling_elastic_ep",
    "POST /fault_tolerance/apply",
    "GET /fault_tolerance/status",
    "POST /reset_prefix_cache",
    "POST /reset_mm_cache",
    "POST /reset_encoder_cache",
    "POST /collective_rpc",
    "POST /sleep",
    "POST /release_kv_cache_memory",
    "POST /wake_up",
    "GET /is_sleeping",
    "POST /pause",
    "POST /resume",
    "POST /abort_requests",
    "GET /is_paused",
    "POST /init_weight_transfer_engine",
    "POST /shutdown_weight_transfer_engine",
    "POST /start_weight_update",
    "POST /start_draft_weight_update",
    "POST /update_weights",
    "POST /finish_weight_update",
    "POST /update_weight_version",
    "GET /weight_info",
    "POST /weight_checker",
    "GET /get_world_size",
}
_STORED = re.compile(r"/v1/responses/([^/]+)(/cancel)?")
_TEMPLATE = r"/v1/responses/{response_id}\2"
_PREFLIGHT = Endpoint(Handling.PASS, "OPTIONS", needs_key=False)


def endpoint_of(scope: dict[str, Any]) -> Endpoint:
    """The endpoint of an HTTP scope, by exact comparison with the path that will be routed.

    Raises:
        EndpointNotGuarded: there is no such open route.
        MethodNotAllowed: the route has another method.
    """
    endpoint = known_endpoint(scope)
    if endpoint is None:
        raise EndpointNotGuarded("This endpoint is not guarded and therefore closed.")
    method = scope["method"]
    if method == endpoint.method or (method == "HEAD" and endpoint.method == "GET"):
        return endpoint
    if method == "OPTIONS" and endpoint.handling is not Handling.READY:
        return _PREFLIGHT
    raise MethodNotAllowed(f"This endpoint takes {endpoint.method}.", allow=(endpoint.method,))


def known_endpoint(scope: MutableMapping[str, Any]) -> Endpoint | None:
    """The open route of this path, whatever the method."""
    return ENDPOINTS.get(_route(scope))


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The open route of this path as it stands in the table; `?` for any other path."""
    route = _route(scope)
    return route if route in ENDPOINTS else "?"


def _route(scope: MutableMapping[str, Any]) -> str:
    path = routed_path(scope)
    return _STORED.sub(_TEMPLATE, path) if _STORED.fullmatch(path) else path


def response_id_of(scope: MutableMapping[str, Any]) -> str:
    """The id in the path of a stored response."""
    found = _STORED.fullmatch(routed_path(scope))
    return found[1] if found else ""


def routed_path(scope: MutableMapping[str, Any]) -> str:
    """The decoded path without the root path, exactly as Starlette's router reads it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root):
        rest = path[len(root) :]
        if not rest or rest.startswith("/"):
            return rest
    return path
