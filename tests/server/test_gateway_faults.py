"""The gateway when guard or engine break: closed, or open where that was asked for, and told."""

from __future__ import annotations

from typing import Any

import pytest

from guard.errors import SnapshotMissing
from server.errors import GuardTimeout, Overloaded
from tests.server.error_shape import error_of


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"view": None}, "guard_unavailable"),
        ({"error": RuntimeError("secret text")}, "guard_unavailable"),
        ({"error": SnapshotMissing("gone")}, "guard_unavailable"),
    ],
)
def test_a_broken_guard_fails_closed_or_as_told_open(
    start_stack: Any, broken: dict[str, Any], code: str
) -> None:
    """No decision: 503 by default; with fail_open the request passes and the bypass is counted."""
    closed = start_stack()
    open_ = start_stack(fail_open=True)
    for stack in (closed, open_):
        for name, value in broken.items():
            setattr(stack.guard, name, value)
    response = closed.chat("about Mary")

    assert error_of(response) == (503, code)
    assert "secret" not in response.text
    assert response.headers["retry-after"]
    assert closed.vllm.requests == []
    assert open_.chat("about Mary").json()["choices"][0]["finish_reason"] == "stop"
    reasons = ("guard_error", "no_policy")
    assert sum(open_.count("lethegate_guard_bypasses_total", reason=r) for r in reasons) == 1
    for stack in (closed, open_):
        assert sum(stack.count("lethegate_guard_failures_total", reason=r) for r in reasons) == 1


def test_a_timeout_never_opens(start_stack: Any) -> None:
    """A client can bring one about, with a request that takes long to screen."""
    stack = start_stack(screen_timeout_seconds=0.1, fail_open=True)
    stack.guard.seconds = 5.0

    assert error_of(stack.chat("about Mary")) == (503, "guard_timeout")
    assert stack.vllm.requests == []
    assert stack.count("lethegate_guard_failures_total", reason="timeout") == 1
    samples = [sample for metric in stack.registry.collect() for sample in metric.samples]
    opened = [s for s in samples if s.name == "lethegate_guard_bypasses_total"]
    assert {s.labels["reason"] for s in opened} == {"guard_error", "no_policy"}
    assert not any(s.value for s in opened)


def test_a_guard_that_hangs_is_a_timeout(start_stack: Any) -> None:
    """Told at once by the guard itself; never opened, and counted as what it is."""
    stack = start_stack(fail_open=True)
    stack.guard.error = GuardTimeout()

    assert error_of(stack.chat()) == (503, "guard_timeout")
    assert stack.vllm.requests == []
    assert stack.count("lethegate_guard_failures_total", reason="timeout") == 1


def test_overload_is_told_even_with_fail_open(start_stack: Any) -> None:
    """Overload is not a broken guard: the client waits and tries again."""
    stack = start_stack(fail_open=True)
    stack.guard.error = Overloaded("too many requests", retry_after_seconds=3)
    response = stack.chat()

    assert error_of(response) == (503, "overloaded")
    assert response.headers["retry-after"] == "3"
    assert stack.count("lethegate_guard_failures_total", reason="overloaded") == 1


def test_readiness_names_the_part_that_is_missing(stack: Any) -> None:
    """Ready only with policy, classifier and engine."""
    assert stack.http.get("/readyz").json() == {"status": "ready", "generation": 7}
    stack.vllm.healthy = False
    stack.guard.missing = ["classifier"]
    stack.guard.view = None
    response = stack.http.get("/readyz")

    assert response.status_code == 503
    assert response.json()["waiting_for"] == ["classifier", "policy", "engine"]


def test_the_engines_own_errors_pass(stack: Any) -> None:
    """An unknown model or bad parameter is answered by vLLM in its own words."""
    error = {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}
    stack.vllm.error = (404, {"error": error})

    for text in ("hi", "about John"):
        response = stack.chat(text)

        assert response.status_code == 404
        assert response.json() == {"error": error}
