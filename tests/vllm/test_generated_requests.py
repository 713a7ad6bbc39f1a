"""The guarded server under requests made of vLLM's own OpenAPI document, with the real engine."""

import copy

import httpx
import pytest

from server.endpoints import ENDPOINTS

pytestmark = [pytest.mark.vllm, pytest.mark.fuzz, pytest.mark.timeout(2400)]
# So that no request keeps the engine busy for long.
BOUNDS = {
    "max_tokens": 4,
    "max_completion_tokens": 4,
    "max_output_tokens": 4,
    "min_tokens": 2,
    "n": 2,
    "best_of": 2,
    "priority": 0,
}
GENERATING = {
    "/v1/chat/completions": "max_tokens",
    "/v1/chat/completions/batch": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


def bounded(document, model):
    """vLLM's document, of the open endpoints only, for one model and short answers."""
    found = copy.deepcopy(document)
    found["paths"] = {
        path: {m: o for m, o in operations.items() if m.upper() == ENDPOINTS[path].method}
        for path, operations in document["paths"].items()
        if path in ENDPOINTS and path in GENERATING
    }
    schemas = found["components"]["schemas"]
    for path, operations in found["paths"].items():
        for operation in operations.values():
            content = operation["requestBody"]["content"]["application/json"]
            schema = schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]
            properties = schema["properties"]
            for name in BOUNDS.keys() & properties.keys():
                properties[name] = {"type": "integer", "minimum": 1, "maximum": BOUNDS[name] or 1}
            properties["model"] = {"const": model}
            length = GENERATING[path]
            schema["required"] = sorted({*schema.get("required", ()), "model", length})
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_no_request_of_vllms_document_is_a_fault(pair, fuzz, seed):
    """No 5xx and no hang, whatever vLLM's models allow; and the server lives on."""
    url = str(pair.plain.base_url).removesuffix("/v1/")
    document = bounded(httpx.get(f"{url}/openapi.json").json(), pair.model)
    checks = {"enabled": False, "not_a_server_error": {"enabled": True}}
    found = fuzz(
        document, pair.http.base_url, key="none", examples=60, seed=seed, seconds=60, checks=checks
    )
    print(f"\nthe real engine, seed {seed}: {found}")

    assert not found.faults, str(found)
    answer = pair.ask(pair.guarded, "Hello?", max_tokens=4)
    assert answer.choices
