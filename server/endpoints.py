"""Which routes exist for clients. Deny by default: what is not in this table is closed.

Left out on purpose although vLLM serves them: `/detokenize` (nothing a client of the guarded
endpoints needs, and it would turn token ids back into text outside the shield), scoring and render
routes, batches, and every route this file has never heard of.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from server.errors import EndpointNotGuarded, MethodNotAllowed


class Handling(StrEnum):
    """What the gateway does with a route."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    PASS = "pass"  # noqa: S105
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One open route. Probes need no key even where clients do."""

    handling: Handling
    method: str
    needs_key: bool = True


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(Handling.CHAT, "POST"),
    "/v1/completions": Endpoint(Handling.COMPLETIONS, "POST"),
    "/v1/models": Endpoint(Handling.PASS, "GET"),
    "/tokenize": Endpoint(Handling.PASS, "POST"),
    "/metrics": Endpoint(Handling.PASS, "GET"),
    "/version": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/health": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/ping": Endpoint(Handling.PASS, "GET", needs_key=False),
    "/readyz": Endpoint(Handling.READY, "GET", needs_key=False),
}
_PREFLIGHT = Endpoint(Handling.PASS, "OPTIONS", needs_key=False)


def endpoint_of(scope: dict[str, Any]) -> Endpoint:
    """The endpoint of an HTTP scope, by exact comparison with the path that will be routed.

    Raises:
        EndpointNotGuarded: there is no such open route.
        MethodNotAllowed: the route has another method.
    """
    endpoint = ENDPOINTS.get(routed_path(scope))
    if endpoint is None:
        raise EndpointNotGuarded("This endpoint is not guarded and therefore closed.")
    method = scope["method"]
    if method == endpoint.method or (method == "HEAD" and endpoint.method == "GET"):
        return endpoint
    if method == "OPTIONS" and endpoint.handling is not Handling.READY:
        return _PREFLIGHT
    raise MethodNotAllowed(f"This endpoint takes {endpoint.method}.")


def routed_path(scope: MutableMapping[str, Any]) -> str:
    """The decoded path without the root path, exactly as Starlette's router reads it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root):
        rest = path[len(root) :]
        if not rest or rest.startswith("/"):
            return rest
    return path
