"""Revisions of a target: patched, listed, compared, brought back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.database import Database
from server.schemas import TargetIn
from server.store import Store
from server.versions import _merge, changes
from server.worklist import Worklist

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
AUDITOR = {"authorization": "Bearer auditor-key"}
ADA = "/admin/v1/targets/ada"
Settle = Callable[[Callable[[], bool]], None]


@pytest.fixture
def change(admin: httpx.Client, settle: Settle) -> Callable[..., httpx.Response]:
    """Make a request and wait until its job is done."""

    def run(method: str, path: str, **arguments: Any) -> httpx.Response:
        answer = admin.request(method, path, **arguments)
        assert answer.status_code == 202, answer.text
        job = f"/admin/v1/jobs/{answer.json()['job']['id']}"
        settle(lambda: admin.get(job).json()["state"] == "done")
        return answer

    return run


def _register(change: Callable[..., httpx.Response]) -> httpx.Response:
    target = {"id": "ada", "phrases": ["Port Sorrel"], "aliases": ["Ada"], "labels": {"a": "1"}}
    return change("POST", "/admin/v1/targets", json=target)


@BOTH
def test_life_of_revisions(
    admin: httpx.Client, change: Callable[..., httpx.Response], compiler: Any
) -> None:
    """Patched twice and rolled back once: four revisions, the first and the last alike."""
    first = _register(change)
    patch = {"description": "new", "phrases": ["Cape Grim"], "labels": {"a": None, "b": "2"}}
    merge = {"content-type": "application/merge-patch+json"}
    second = change("PATCH", ADA, json=patch, headers={**merge, "if-match": first.headers["etag"]})
    change("PATCH", ADA, json={"aliases": None, "enforcement": "observe"})
    rolled = change("POST", f"{ADA}/versions/1:rollback", json={})

    shown = admin.get(f"{ADA}/versions").json()["versions"]
    assert [(v["revision"], v["active"], v["newest"]) for v in shown] == [
        (4, True, True),
        (3, False, False),
        (2, False, False),
        (1, False, False),
    ]
    assert all(v["created_at"] for v in shown)
    target = admin.get(f"{ADA}/versions/3").json()["target"]
    assert target["labels"] == {"b": "2"}
    assert (target["aliases"], target["enforcement"]) == ([], "observe")
    assert rolled.json()["target"]["revision"] == 4
    found = admin.get(f"{ADA}/versions:diff", params={"from": 1, "to": 2}).json()
    by_field = {c["field"]: c for c in found["changes"]}
    assert set(by_field) == {"description", "phrases", "labels"}
    assert [p["text"] for p in by_field["phrases"]["added"]] == ["Cape Grim"]
    assert [p["text"] for p in by_field["phrases"]["removed"]] == ["Port Sorrel"]
    assert (by_field["labels"]["before"], by_field["labels"]["after"]) == ({"a": "1"}, {"b": "2"})
    assert admin.get(f"{ADA}/versions:diff", params={"from": 1}).json()["changes"] == []
    assert first.headers["etag"] != second.headers["etag"]


def test_refusals(admin: httpx.Client, change: Callable[..., httpx.Response]) -> None:
    """What cannot be: another id, no evidence, a stale ETag, a revision that is not kept."""
    etag = _register(change).headers["etag"]
    change("PATCH", ADA, json={"description": "new"})

    for patch, param in (
        ({"id": "eve"}, "id"),
        ({"id": None}, "id"),
        ({"phrases": None}, "examples"),
        ({"action": "dance"}, "action"),
        ({"status": "active"}, "status"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ):
        answer = admin.patch(ADA, json=patch)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    assert admin.patch(ADA, json={}, headers={"if-match": etag}).status_code == 412
    for path in (f"{ADA}/versions/9", "/admin/v1/targets/eve/versions/1"):
        assert admin.get(path).status_code == 404
        assert admin.post(f"{path}:rollback", json={}).status_code == 404
    assert admin.patch("/admin/v1/targets/eve", json={}).status_code == 404
    assert admin.get(f"{ADA}/versions:diff", params={"from": 9}).status_code == 404
    assert admin.get(f"{ADA}/versions:diff").status_code == 422
    assert admin.get("/admin/v1/targets/eve/versions").status_code == 404
    for path in (f"{ADA}/versions/1", f"{ADA}/versions:diff?from=1"):
        assert admin.get(path, headers=AUDITOR).status_code == 403
    assert admin.get(f"{ADA}/versions", headers=AUDITOR).status_code == 200
    assert (
        admin.patch(ADA, content=b"[]", headers={"content-type": "text/plain"}).status_code == 415
    )


@BOTH
def test_only_so_many_are_kept(database: Database) -> None:
    """Of the revisions before the one in force, as many as the setting says."""
    store, worklist = Store(database), Worklist(database, keep_versions=2)
    for number in range(6):
        fields = {"id": "ada", "phrases": ["x"], "description": str(number)}
        target = TargetIn.model_validate(fields)
        store.replace(target) if number else store.register(target)
        batch = worklist.take()
        plan = worklist.plan(batch)
        assert [t.description for t in plan.targets] == [str(number)]
        generation = worklist.record_generation("d" * 64, "f", "replace", 1, above=0)
        worklist.confirm(generation.number, batch, plan, {})

    assert [revision for revision, _ in store.versions("ada")[1]] == [6, 5, 4]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=2), _json), st.dictionaries(st.text(max_size=2), _json))
def test_merge_patch(document: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396: what the patch does not name stays, null removes, everything else is taken."""
    merged = _merge(document, patch)

    for key in {*document, *patch}:
        if key not in patch:
            assert merged[key] == document[key]
        elif patch[key] is None:
            assert key not in merged
        elif not isinstance(patch[key], dict):
            assert merged[key] == patch[key]
    assert changes(document, document) == []
