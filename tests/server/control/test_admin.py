"""The admin API over HTTP, with a real store, worker and followers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from guard.follower import Follower
from server.provenance.worker import CorpusWorker
from server.store import Store

TARGETS = "/admin/v1/targets"
SECRET = "Port Sorrel"
Settle = Callable[[Callable[[], bool]], None]


def _target(target_id: str = "ada", **fields: Any) -> dict[str, Any]:
    return {"id": target_id, "phrases": [SECRET], **fields}


def _error(response: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that it has OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert all(isinstance(body["error"][key], str) for key in ("message", "type", "code"))
    found: dict[str, Any] = body["error"]
    return found


def test_life_of_a_target(
    admin: httpx.Client,
    follow: Callable[..., Follower],
    done: Callable[[httpx.Response], dict[str, Any]],
) -> None:
    """A target is registered, in force, replaced, withdrawn and gone."""
    follower = follow()
    created = admin.post(TARGETS, json=_target())
    assert created.headers["location"] == f"{TARGETS}/ada"
    assert created.json()["target"]["status"] == "pending"
    job = done(created)
    assert (job["state"], job["target_ids"]) == ("done", ["ada"])
    assert follower.state.generation >= job["generation"]

    shown = admin.get(f"{TARGETS}/ada")
    assert shown.json()["status"] == "active"
    assert shown.json()["target"]["phrases"] == [{"text": SECRET, "whole_word": True}]
    assert shown.json()["report"] == {"phrases": 1}
    etag = shown.headers["etag"]

    replaced = admin.put(f"{TARGETS}/ada", json=_target(), headers={"if-match": etag})
    assert done(replaced)["kind"] == "replace"
    stale = admin.delete(f"{TARGETS}/ada", headers={"if-match": etag})
    assert (stale.status_code, _error(stale)["code"]) == (412, "precondition_failed")

    withdrawn = admin.delete(f"{TARGETS}/ada")
    assert withdrawn.json()["target"]["status"] == "withdrawn"
    assert done(withdrawn)["state"] == "done"
    assert _error(admin.get(f"{TARGETS}/ada"))["code"] == "not_found"


def test_generation(
    admin: httpx.Client,
    follow: Callable[..., Follower],
    done: Callable[[httpx.Response], dict[str, Any]],
    settle: Settle,
) -> None:
    """The ruling generation tells who has acknowledged it."""
    follow()
    settle(lambda: admin.get("/readyz").status_code == 200)  # the empty policy comes first
    job = done(admin.post(TARGETS, json=_target()))
    found = admin.get("/admin/v1/generation").json()

    assert (found["generation"], found["in_force"]) == (job["generation"], True)
    assert found["num_targets"] == 1
    (follower,) = found["followers"]
    assert (follower["kind"], follower["generation"]) == ("gateway", job["generation"])
    newest = admin.get("/admin/v1/generations", params={"limit": 1}).json()
    (row,) = newest["generations"]
    assert (row["generation"], row["digest"]) == (found["generation"], found["digest"])
    assert (row["num_targets"], row["confirmed_at"] is None) == (1, False)
    older = admin.get("/admin/v1/generations", params={"after": newest["next"]}).json()
    assert [each["num_targets"] for each in older["generations"]] == [0]
    assert older["next"] is None


def test_conflict(admin: httpx.Client) -> None:
    """A taken id is a 409 that names the field."""
    admin.post(TARGETS, json=_target())
    again = admin.post(TARGETS, json=_target())

    assert again.status_code == 409
    assert (_error(again)["code"], _error(again)["param"]) == ("conflict", "id")


def test_pages(admin: httpx.Client) -> None:
    """Lists come in pages whose cursors lead to the end."""
    for number in range(5):
        admin.post(TARGETS, json=_target(f"t{number}"))
    first = admin.get(TARGETS, params={"limit": 3}).json()
    second = admin.get(TARGETS, params={"limit": 3, "after": first["next"]}).json()

    assert [target["id"] for target in first["targets"]] == ["t0", "t1", "t2"]
    assert [target["id"] for target in second["targets"]] == ["t3", "t4"]
    assert second["next"] is None
    found = admin.get(TARGETS, params={"search": "T3"}).json()["targets"]
    assert [target["id"] for target in found] == ["t3"]
    assert admin.get(TARGETS, params={"search": "_"}).json() == {"targets": [], "next": None}
    jobs = admin.get("/admin/v1/jobs", params={"limit": 2}).json()
    older = admin.get("/admin/v1/jobs", params={"limit": 1000, "after": jobs["next"]}).json()
    assert len(jobs["jobs"]) + len(older["jobs"]) >= 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"id": "NO " + SECRET}, "id"),
        ({"phrases": [], "description": SECRET}, "examples"),
        ({"examples": [{"prompt": SECRET, "answer": "\0" + SECRET}]}, "examples[0].answer"),
        ({"examples": [{"prompt": SECRET}]}, "examples[0].answer"),
        ({"examples": SECRET}, "examples"),
        ({"action": SECRET}, "action"),
        ({SECRET: 1}, "?"),
        ({"status": "active"}, "status"),
        ({"labels": {SECRET: "x"}}, "labels.?"),
        ({"uld": {"assistant": SECRET}}, "uld.assistant"),
        ({"documents": [{"text": SECRET, "uri": SECRET}]}, "documents[0].uri"),
        ({"thresholds": {"minimum_match": 2}}, "thresholds.minimum_match"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ],
)
def test_invalid_fields(
    admin: httpx.Client, store: Store, fields: dict[str, Any], param: str
) -> None:
    """A bad field is a 422 that names it, repeats no value and stores nothing."""
    response = admin.post(TARGETS, json=_target(**fields))

    assert response.status_code == 422
    assert _error(response)["param"] == param
    assert SECRET not in response.text
    assert store.target_page(None, 10) == []


@pytest.mark.parametrize(
    ("body", "media", "status", "code"),
    [
        (b'{"id": "' + SECRET.encode(), "application/json", 400, "malformed_body"),
        (b'{"id": "\xff"}', "application/json", 400, "malformed_body"),
        (b'{"id": "a", "id": "b"}', "application/json", 400, "malformed_body"),
        (b"[1]", "application/json", 400, "malformed_body"),
        (b'{"a": NaN}', "application/json", 400, "malformed_body"),
        (b"[" * 100_000, "application/json", 400, "malformed_body"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "application/json", 400, "malformed_body"),
        (b'{"id": "\\ud800"}', "application/json", 400, "malformed_body"),
        (b"", "application/json", 400, "malformed_body"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"x" * 10_000_000, "application/json", 413, "body_too_large"),
    ],
    ids=range(11),
)
def test_unfit_bodies(admin: httpx.Client, body: bytes, media: str, status: int, code: str) -> None:
    """A body that is no fit JSON object is refused in OpenAI's shape, and the server lives."""
    response = admin.post(TARGETS, content=body, headers={"content-type": media})

    assert (response.status_code, _error(response)["code"]) == (status, code)
    assert SECRET not in response.text
    assert admin.get("/livez").status_code == 200


def test_chunked_body_is_bounded_too(admin: httpx.Client) -> None:
    """A body without a declared length is cut at the same limit."""
    chunks = (b" " * 1_000_000 for _ in range(10))
    response = admin.post(TARGETS, content=chunks, headers={"content-type": "application/json"})

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", TARGETS),
        ("POST", TARGETS),
        ("GET", f"{TARGETS}/ada"),
        ("PUT", f"{TARGETS}/ada"),
        ("DELETE", f"{TARGETS}/ada"),
        ("GET", "/admin/v1/jobs"),
        ("GET", "/admin/v1/jobs/x"),
        ("GET", "/admin/v1/generation"),
    ],
)
def test_keys_are_required(admin: httpx.Client, method: str, path: str) -> None:
    """Nothing under the admin prefix answers without a key, nor to a client's key."""
    for header, status in (("", 401), ("Bearer nobody", 401), ("Bearer client-key", 403)):
        response = admin.request(
            method,
            path,
            headers={"authorization": header, "content-type": "application/json"},
            content=json.dumps(_target()) if method in ("POST", "PUT") else None,
        )

        assert response.status_code == status
        assert _error(response)["type"] in ("authentication_error", "permission_error")


def test_auditors_read_no_forget_text(admin: httpx.Client) -> None:
    """An auditor sees lists, jobs and the generation, but no text and no change."""
    admin.post(TARGETS, json=_target(description=SECRET))
    auditor = {"authorization": "Bearer auditor-key"}
    listed = admin.get(TARGETS, headers=auditor)

    assert listed.json()["targets"][0]["description"] is None
    assert SECRET not in listed.text
    assert admin.get("/admin/v1/jobs", headers=auditor).status_code == 200
    assert admin.get(f"{TARGETS}/ada", headers=auditor).status_code == 403
    assert admin.post(TARGETS, json=_target("b"), headers=auditor).status_code == 403
    assert admin.delete(f"{TARGETS}/ada", headers=auditor).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/admin/v1/nowhere", 404),
        ("GET", f"{TARGETS}/nobody", 404),
        ("DELETE", f"{TARGETS}/nobody", 404),
        ("GET", "/admin/v1/jobs/nobody", 404),
        ("PATCH", TARGETS, 405),
        ("GET", f"{TARGETS}?limit=0", 422),
        ("GET", f"{TARGETS}?limit=many", 422),
    ],
)
def test_other_errors_have_the_shape_too(
    admin: httpx.Client, method: str, path: str, status: int
) -> None:
    """Unknown routes, ids, methods and bad queries answer in OpenAI's shape."""
    body = "{}" if method == "PATCH" else None
    response = admin.request(
        method, path, content=body, headers={"content-type": "application/json"}
    )

    assert response.status_code == status
    _error(response)


def test_path_and_body_must_agree(admin: httpx.Client) -> None:
    """A replacement under another id is refused."""
    admin.post(TARGETS, json=_target())
    response = admin.put(f"{TARGETS}/ada", json=_target("eve"))

    assert (response.status_code, _error(response)["param"]) == (422, "id")


def test_unexpected_faults_stay_inside(
    admin: httpx.Client,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A bug is a 500 in OpenAI's shape; its message reaches neither client nor log."""

    def explode(*_: Any) -> Any:
        raise KeyError(SECRET)

    monkeypatch.setattr(store, "register", explode)
    response = admin.post(TARGETS, json=_target())
    printed = capfd.readouterr()

    assert (response.status_code, _error(response)["code"]) == (500, "internal_error")
    assert SECRET not in response.text + printed.out + printed.err


def test_probes(admin: httpx.Client, settle: Settle) -> None:
    """Probes and metrics need no key; ready means a policy is in force."""
    settle(lambda: admin.get("/readyz").status_code == 200)
    stranger = {"authorization": ""}
    found = admin.get("/metrics", headers=stranger)

    assert admin.get("/livez", headers=stranger).status_code == 200
    assert admin.get("/readyz", headers=stranger).json() == {"status": "ready"}
    assert "lethegate_active_generation 1.0" in found.text


def test_not_ready_before_the_corpora_are_open(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, settle: Settle
) -> None:
    """Until then the API does not know how many words they have."""
    may_open, begin = threading.Event(), CorpusWorker._begin

    def begin_late(worker: CorpusWorker) -> None:
        may_open.wait(60)
        begin(worker)

    monkeypatch.setattr(CorpusWorker, "_begin", begin_late)
    admin: httpx.Client = request.getfixturevalue("admin")
    try:
        settle(lambda: "corpora" in admin.get("/readyz").text)
        assert admin.get("/readyz").status_code == 503
    finally:
        may_open.set()
    settle(lambda: admin.get("/readyz").status_code == 200)


def test_openapi(admin: httpx.Client) -> None:
    """The OpenAPI document describes the routes and the fields of a target."""
    document = admin.get("/openapi.json").json()

    assert {TARGETS, f"{TARGETS}/{{target_id}}", "/admin/v1/generation"} <= set(document["paths"])
    fields = document["components"]["schemas"]["TargetIn"]["properties"]
    assert "examples" in fields
    assert "uld" in fields


def test_without_a_console(admin: httpx.Client) -> None:
    """Where there is none its addresses are as unknown as any other."""
    answer = admin.get("/console/login")

    assert (answer.status_code, _error(answer)["code"]) == (404, "not_found")
