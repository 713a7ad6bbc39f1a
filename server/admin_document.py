"""The admin API's OpenAPI document: what FastAPI reads off the handlers, and what else is true.

Keys, audit, bodies and `Idempotency-Key` are looked at before any handler, and every error has
OpenAI's shape. Both are added here by rule, so that no route can forget them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.types import Scope

from server.admin_examples import EXAMPLES
from server.admin_parts import PREFIX
from server.error_table import ERROR_TABLE
from server.provenance.schemas import DocumentsIn

_COMPONENTS = "#/components/schemas/{model}"
_ERROR = {"application/json": {"schema": {"$ref": _COMPONENTS.format(model="Error")}}}
# Bodies that a handler reads itself, so that FastAPI does not know them.
_READ_BY_HANDLERS = (DocumentsIn,)
_NO_BODY = {
    "required": True,
    "description": "An empty object.",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request under the same key gets the same answer, for a day.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}
_MEANINGS = {
    400: "The body is not a JSON object that every reader takes alike.",
    401: "No key was given, or an unknown one.",
    403: "The key has no right to this.",
    404: "There is no such resource.",
    409: "The resource's state does not allow it.",
    412: "If-Match names another state.",
    413: "The body is too long.",
    415: "The body is declared as something that is not taken.",
    422: "A field or parameter is not valid; `param` names it.",
    500: "The server failed.",
    503: "Not now: try again after Retry-After seconds.",
}


class AdminApp(FastAPI):
    """A FastAPI application whose document tells all that its clients may meet."""

    def __init__(self, *, takes_replay_key: Callable[[Scope], bool], **options: Any) -> None:
        """`takes_replay_key` says which POSTs take an Idempotency-Key."""
        super().__init__(**options)
        self._takes_replay_key = takes_replay_key

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = self._completed(super().openapi())
        return self.openapi_schema

    def _completed(self, document: dict[str, Any]) -> dict[str, Any]:
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                self._complete(path, method.upper(), operation)
        components = document["components"]
        _, known = models_json_schema(
            [(model, "validation") for model in _READ_BY_HANDLERS], ref_template=_COMPONENTS
        )
        schemas = components["schemas"] | known["$defs"] | {"Error": error_schema()}
        # FastAPI's own error, which is never sent.
        for unsent in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unsent, None)
        components["schemas"] = schemas
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    def _complete(self, path: str, method: str, operation: dict[str, Any]) -> None:
        if method in ("POST", "PUT", "PATCH"):
            body = operation.setdefault("requestBody", _NO_BODY)["content"]
            if method == "PATCH":
                body["application/merge-patch+json"] = body["application/json"]
            if (example := EXAMPLES.get((method, path))) is not None:
                for media in _written_as(body, example):
                    media["examples"] = {"example": {"value": example}}
        scope = {"path": path, "headers": []}
        if method == "POST" and self._takes_replay_key(scope):
            operation["parameters"] = [*operation.get("parameters", ()), _IDEMPOTENCY_KEY]
        if path.startswith(PREFIX):
            operation["security"] = [{"key": []}]
        responses = operation["responses"]
        answered = {int(status) for status in responses if int(status) >= 400}
        for status in sorted(answered - {422} | _errors(path, method, operation)):
            found = responses.setdefault(str(status), {})
            found["description"] = found.get("description", _MEANINGS[status])
            found["content"] = _ERROR


def _written_as(body: dict[str, Any], example: Any) -> list[dict[str, Any]]:
    """The media types of a body that an example is written in: lines are text."""
    lines = isinstance(example, str)
    return [media for name, media in body.items() if ("ndjson" in name) == lines]


def error_schema() -> dict[str, Any]:
    """The JSON schema of every error."""
    rows = ERROR_TABLE.values()
    fields = {
        "message": {"type": "string"},
        "type": {"enum": sorted({row.type for row in rows})},
        "param": {"type": ["string", "null"], "description": "The field at fault."},
        "code": {"enum": sorted({row.code for row in rows})},
    }
    return _closed({"error": _closed(fields)})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _errors(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    """The error statuses that an operation may give, whatever its handler says."""
    if not path.startswith(PREFIX):
        return {500, 503} if path == "/readyz" else {500}
    names = {parameter["name"].lower() for parameter in operation.get("parameters", ())}
    found = {401, 403, 500, 503}
    if "requestBody" in operation:
        found |= {400, 413, 415, 422}
    if names:
        found.add(422)
    if "{" in path or "after" in names:
        found.add(404)
    if method != "GET":
        found.add(409)
    if "if-match" in names:
        found.add(412)
    return found
