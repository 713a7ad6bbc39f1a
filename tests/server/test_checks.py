"""`POST /v1/checks`: decisions with reasons for admins and auditors, without generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from detectors.detection import Detection, Layer, Strength
from guard.decision import Decision, Verdict
from server.auth import Role
from server.checks import check_result
from server.cli import app

CHECKS = "/v1/checks"
FOUND = Detection("john", Layer.SIMILARITY, Strength.STRONG, 0.91234, 0.8, (2, 0))
SEEN = Detection("mary", Layer.ALIAS, Strength.WEAK, 1.0, 1.0)


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def checked(start_stack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway with a key of each role, whose guard gives reasons."""
    roles = {"c": Role.CLIENT, "u": Role.AUDITOR, "a": Role.ADMIN}
    stack = start_stack(keys=roles)
    screen = stack.guard.screen

    async def with_reasons(*arguments: Any, **options: Any) -> Decision:
        decision: Decision = await screen(*arguments, **options)
        if decision.verdict is Verdict.ALLOW:
            return decision
        return replace(decision, detections=(FOUND,), observed=(SEEN,))

    monkeypatch.setattr(stack.guard, "screen", with_reasons)
    return stack


def test_reasons(checked: Any) -> None:
    """Verdict, generation and every detection's numbers; the engine is never asked."""
    for key in ("u", "a"):
        text = {"text": "tell me about John"}
        answer = checked.http.post(CHECKS, json=text, headers=_bearer(key))
        body = answer.json()

        assert answer.status_code == 200
        assert (body["object"], body["verdict"], body["would"]) == ("check", "steer", None)
        assert body["generation"] == checked.guard.view.generation
        assert answer.headers["x-lethegate-decision"] == "steer"
        assert body["detections"] == [
            {
                "target": "john",
                "layer": "similarity",
                "strength": "strong",
                "score": 0.9123,
                "threshold": 0.8,
                "items": [2, 0],
                "enforced": True,
            },
            {
                "target": "mary",
                "layer": "alias",
                "strength": "weak",
                "score": 1.0,
                "threshold": 1.0,
                "items": [],
                "enforced": False,
            },
        ]
        assert body["active"] == [{"target": "john", "whole": True, "items": [0, 2]}]
    assert checked.guard.screened == [["tell me about John"]] * 2
    assert checked.vllm.requests == []
    assert checked.count("lethegate_requests_total", verdict="steer") == 0


def test_conversations(checked: Any) -> None:
    """A conversation is judged as that of a chat is, and an innocent one is allowed."""
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "about Mary"}]},
    ]
    steered = checked.http.post(CHECKS, json={"messages": messages}, headers=_bearer("a"))
    allowed = checked.http.post(CHECKS, json={"text": "hello"}, headers=_bearer("a"))

    assert steered.json()["verdict"] == "refuse"
    assert (allowed.json()["verdict"], allowed.json()["detections"]) == ("allow", [])
    assert checked.guard.screened[0] == ["be brief", "about Mary"]


@pytest.mark.parametrize(
    ("path", "body", "screened"),
    [
        ("/v1/completions", {"prompt": ["a", "about John"], "max_tokens": 3}, ["a", "about John"]),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "about John"}]},
            ["about John"],
        ),
        (
            "/v1/responses",
            {"instructions": "a", "input": "about John", "previous_response_id": None},
            ["a", "about John"],
        ),
        (
            "/v1/chat/completions/batch",
            {"messages": [[{"role": "user", "content": t}] for t in ("a", "about John")]},
            ["a", "about John"],
        ),
    ],
)
def test_whole_requests(checked: Any, path: str, body: Any, screened: list[str]) -> None:
    """A request of any API is judged by the very texts that it is judged by when it is made."""
    about = {"request": {"path": path, "body": body}}
    answer = checked.http.post(CHECKS, json=about, headers=_bearer("a"))

    assert answer.json()["active"] == [{"target": "john", "whole": True, "items": [0, 2]}]
    assert checked.guard.screened == [screened]
    assert checked.vllm.requests == []


def test_nothing_is_active_in_what_is_refused_or_only_observed(checked: Any) -> None:
    """No phrase is forbidden in such an answer."""
    refused = checked.http.post(CHECKS, json={"text": "about Mary"}, headers=_bearer("a"))
    weak = replace(FOUND, strength=Strength.WEAK)
    would = Decision(Verdict.STEER, 7, "d", detections=(weak,))

    assert (refused.json()["verdict"], refused.json()["active"]) == ("refuse", [])
    assert check_result(would)["active"] == [{"target": "john", "whole": False, "items": [0, 2]}]
    observing = Decision(Verdict.ALLOW, 7, "d", observed=(weak,), would=would)
    assert check_result(observing)["active"] == []


def test_no_oracle_for_clients(checked: Any, start_stack: Callable[..., Any]) -> None:
    """Clients, strangers and whoever comes without a key are refused before the body is read."""
    for headers, status in ((_bearer("c"), 403), (_bearer("x"), 401), ({}, 401)):
        answer = checked.http.post(CHECKS, content=b"not json", headers=headers)
        assert answer.status_code == status
    anonymous = start_stack().http.post(CHECKS, json={"text": "about John"})
    assert (anonymous.status_code, anonymous.json()["error"]["code"]) == (
        403,
        "insufficient_permissions",
    )
    assert checked.guard.screened == []
    assert checked.http.get(CHECKS, headers=_bearer("a")).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": 1},
        {"text": "a", "messages": []},
        {"text": "a", "model": "demo"},
        {"messages": "about John"},
        {"messages": [7]},
        {"request": "about John"},
        {"request": {"path": "/v1/responses"}},
        {"request": {"path": "/v1/models", "body": {}}},
        {"request": {"path": "/about/John", "body": {}}},
        {"request": {"path": ["about John"], "body": {}}},
        {"request": {"path": "/v1/responses", "body": "about John"}},
        {"request": {"path": "/v1/responses", "body": {"input": 5}}},
        {"request": {"path": "/v1/completions", "body": {"prompt": [-1]}}},
        {"request": {"path": "/v1/responses", "body": {"previous_response_id": "r", "input": ""}}},
    ],
)
def test_bad_checks(checked: Any, body: dict[str, Any]) -> None:
    """What cannot be read is a 400 that quotes nothing."""
    answer = checked.http.post(CHECKS, json=body, headers=_bearer("a"))

    assert answer.status_code == 400
    assert "John" not in answer.text


def test_failures(checked: Any) -> None:
    """Without a decision there is an error, never an "allow"."""
    checked.guard.error = RuntimeError("about John")
    failed = checked.http.post(CHECKS, json={"text": "hello"}, headers=_bearer("a"))
    checked.guard.view = None
    absent = checked.http.post(CHECKS, json={"text": "hello"}, headers=_bearer("a"))

    assert failed.status_code == absent.status_code == 503
    assert failed.json()["error"]["code"] == "guard_unavailable"
    assert "John" not in failed.text


def test_from_the_shell(checked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`lethegate check` shows the decision and its reasons."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "a")
    flags = ["--port", str(urlsplit(checked.url).port), "--state-dir", str(tmp_path / "none")]
    shown = CliRunner().invoke(app, ["check", "about John", *flags])
    given = CliRunner().invoke(app, ["check", "-", "--json", *flags], input="hello")
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "c")
    refused = CliRunner().invoke(app, ["check", "hello", *flags])
    monkeypatch.delenv("LETHEGATE_ADMIN_KEY")
    keyless = CliRunner().invoke(app, ["check", "hello", *flags])

    assert shown.exit_code == 0, shown.output
    assert "steer (generation" in shown.stdout
    assert "similarity" in shown.stdout
    assert '"verdict": "allow"' in given.stdout
    assert (refused.exit_code, "insufficient_permissions" in refused.output) == (1, True)
    assert (keyless.exit_code, "no admin key" in keyless.output) == (1, True)
