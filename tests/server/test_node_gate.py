"""A gateway of a node that may not serve: every question is refused, whatever else is set."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.nodes.standing import NodeGate, Standing, boot_id, write_standing

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "demo", "prompt": "hello"},
    "/v1/responses": {"model": "demo", "input": "hello"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/v1/embeddings": {"model": "demo", "input": "hello"},
    "/v1/checks": CHAT,
}


@pytest.fixture
def standing() -> Standing:
    """Of a node that is current."""
    return Standing("1" * 32, joined=True, lead=1, current_at=time.monotonic(), boot=boot_id())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fenced": True}, "node_fenced"),
        ({"joined": False}, "node_behind"),
        ({"current_at": -1e9}, "node_behind"),
        ({"boot": "another"}, "node_behind"),
    ],
)
def test_who_may_not_serve_refuses(
    start_stack: Any, tmp_path: Path, standing: Standing, change: dict[str, Any], code: str
) -> None:
    """In each API's shape, also where the guard's own failures would let requests through."""
    gate = NodeGate(tmp_path, 60.0)
    write_standing(tmp_path, standing, durable=False)
    stack = start_stack(node=gate, fail_open=True)
    assert stack.http.post("/v1/chat/completions", json=CHAT).status_code == 200
    write_standing(tmp_path, replace(standing, **change), durable=True)

    for path, body in PATHS.items():
        refused = stack.http.post(path, json=body)
        assert refused.status_code == 503, path
        assert refused.headers["retry-after"] == "1"
        error = refused.json()["error"]
        if path == "/v1/messages":
            assert refused.json()["type"] == "error"
        else:
            assert (error["code"], error["type"]) == (code, "server_error")
    ready = stack.http.get("/readyz")
    assert (ready.status_code, "node" in ready.json()["waiting_for"]) == (503, True)
    # Alive all the same: nobody is to start it again.
    assert stack.http.get("/health").status_code == 200
    assert stack.http.get("/v1/models").status_code == 200
    assert stack.count("lethegate_guard_failures_total", reason="node") == len(PATHS)
    write_standing(tmp_path, standing, durable=False)
    assert stack.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_without_a_standing_nothing_is_served(start_stack: Any, tmp_path: Path) -> None:
    """No agent has been here, or what it wrote cannot be read."""
    stack = start_stack(node=NodeGate(tmp_path, 0.0))

    assert stack.http.post("/v1/chat/completions", json=CHAT).json()["error"]["code"] == (
        "node_behind"
    )
    (tmp_path / "node.json").write_text("{")
    assert stack.http.post("/v1/chat/completions", json=CHAT).status_code == 503


def test_without_a_longest_lag_a_node_goes_on(tmp_path: Path, standing: Standing) -> None:
    """For as long as it takes; a new start of the machine changes nothing, either."""
    write_standing(tmp_path, replace(standing, current_at=None, boot="another"), durable=False)
    gate = NodeGate(tmp_path, 0.0)

    assert gate.may_serve()
    assert gate.lag_seconds() == float("inf")
