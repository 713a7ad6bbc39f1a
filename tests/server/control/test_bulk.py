"""Many targets at once over the admin API: import, export, validation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.jobs import JobWorker
from server.on_conflict import OnConflict
from server.schemas import TargetIn
from server.store import Store
from server.tables import JobState
from server.target_lines import MAX_PROBLEMS

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
AUDITOR = {"authorization": "Bearer auditor-key"}
SECRET = "quokka-lantern-7719"
Settle = Callable[[Callable[[], bool]], None]
Done = Callable[[httpx.Response], dict[str, Any]]


def _lines(*targets: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(target).encode() + b"\n" for target in targets)


def _target(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"t{number:05}", "phrases": [f"Port Sorrel {number}"], **fields}


def _post(admin: httpx.Client, what: str, body: bytes, **params: str) -> httpx.Response:
    headers = {"content-type": "application/x-ndjson"}
    return admin.post(f"/admin/v1/targets:{what}", content=body, headers=headers, params=params)


@BOTH
def test_import_and_export(admin: httpx.Client, compiler: Any, done: Done) -> None:
    """Many targets cost one job and one compilation, and come out as they went in."""
    compiled = len(compiler.calls)
    targets = [_target(n, description=f"d{n}", labels={"n": str(n)}) for n in range(150)]
    answer = _post(admin, "import", _lines(*targets))
    job = done(answer)

    assert (answer.json()["registered"], answer.json()["replaced"]) == (150, 0)
    assert (job["state"], job["kind"], job["num_targets"]) == ("done", "import", 150)
    assert len(job["target_ids"]) == 100
    assert len(compiler.calls) <= compiled + 2  # the empty policy of the start may be one
    listed = admin.get("/admin/v1/targets", params={"limit": 1000}).json()["targets"]
    assert {(t["status"], t["generation"]) for t in listed} == {("active", job["generation"])}
    exported = admin.get("/admin/v1/targets:export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in exported.text.splitlines()]
    assert [TargetIn.model_validate(t) for t in found] == [
        TargetIn.model_validate(t) for t in targets
    ]
    again = _post(admin, "import", exported.content, on_conflict="replace")
    assert (again.json()["replaced"], done(again)["state"]) == (150, "done")
    assert admin.get("/admin/v1/targets/t00000").json()["revision"] == 2


def test_conflicts(admin: httpx.Client, done: Done) -> None:
    """A registered target fails the import, is replaced or is skipped, as was asked for."""
    done(_post(admin, "import", _lines(_target(1))))
    both = _lines(_target(0), _target(1, description="new"))
    failed = _post(admin, "import", both)

    assert (failed.status_code, failed.json()["error"]["code"]) == (409, "conflict")
    assert failed.json()["error"]["message"] == "line 2: a target with this id exists"
    assert admin.get("/admin/v1/targets/t00000").status_code == 404
    skipped = _post(admin, "import", both, on_conflict="skip")
    assert skipped.json() | {"job": 0} == {"registered": 1, "replaced": 0, "skipped": 1, "job": 0}
    nothing = _post(admin, "import", both, on_conflict="skip")
    assert (nothing.json()["skipped"], nothing.json()["job"]) == (2, None)
    replaced = _post(admin, "import", both, on_conflict="replace")
    assert replaced.json()["replaced"] == 2
    assert _post(admin, "import", both, on_conflict="other").status_code == 422


def test_bad_lines(admin: httpx.Client) -> None:
    """One bad line refuses all, by number; validation tells every one. Nothing is quoted."""
    body = b"\n".join(
        [
            _lines(_target(1)).strip(),
            b"",
            json.dumps({"id": "t2", "phrases": [SECRET], "colour": SECRET}).encode(),
            b"{" + SECRET.encode(),
            _lines(_target(1)).strip(),
            json.dumps(_target(3, expires_at="2001-01-01T00:00:00Z")).encode(),
            json.dumps({"id": "t4"}).encode(),
        ]
    )
    refused, checked = _post(admin, "import", body), _post(admin, "validate", body)

    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "line 3: colour: is not a field (and 4 more)"
    assert refused.json()["error"]["param"] == "colour"
    assert admin.get("/admin/v1/targets").json()["targets"] == []
    found = checked.json()
    problems = {p["line"]: p["message"] for p in found["problems"]}
    assert (checked.status_code, found["num_problems"], found["existing"]) == (200, 5, 0)
    assert problems[4] == "is not JSON."
    assert problems[5] == "id: is repeated"
    assert problems[6] == "expires_at: must be in the future"
    assert problems[7].startswith("examples: needs at least one of")
    assert SECRET not in refused.text + checked.text
    for empty in (b"", b"\n\n"):
        assert _post(admin, "import", empty).json()["error"]["param"] == "targets"
    many = _post(admin, "validate", b"x\n" * 500).json()
    assert (many["num_problems"], len(many["problems"])) == (500, MAX_PROBLEMS)


def test_rights_and_types(admin: httpx.Client) -> None:
    """Forget text goes to admins only, and lines must be declared as such."""
    for path in ("import", "validate"):
        url = f"/admin/v1/targets:{path}"
        assert admin.post(url, json=_target(1)).status_code == 415
        headers = {**AUDITOR, "content-type": "application/x-ndjson"}
        assert admin.post(url, content=_lines(_target(1)), headers=headers).status_code == 403
    assert admin.get("/admin/v1/targets:export", headers=AUDITOR).status_code == 403


def test_an_export_is_recorded(admin: httpx.Client, settle: Settle) -> None:
    """Whoever takes all forget text away is in the audit."""
    admin.get("/admin/v1/targets:export").read()

    settle(lambda: "targets:export" in admin.get("/admin/v1/audit").text)


def test_an_import_outlives_a_change_of_one_of_its_targets(
    store: Store, make_worker: Callable[..., JobWorker], settle: Settle
) -> None:
    """Replacing one imported target while the job waits does not cancel the others' job."""
    wanted = {n: TargetIn.model_validate(_target(n)) for n in range(3)}
    job = store.import_targets(wanted, OnConflict.FAIL).job
    assert job is not None
    store.replace(TargetIn.model_validate(_target(1, description="new")))
    make_worker()

    settle(lambda: store.jobs().find(job.id).state is JobState.DONE)
    settle(lambda: store.count_targets()["active"] == 3)
    assert store.target("t00001")[1]["description"] == "new"


@BOTH
def test_ten_thousand(store: Store, make_worker: Callable[..., JobWorker], compiler: Any) -> None:
    """The store's part of 10,000 targets: import, activation and a page, well within a minute."""
    wanted = {n: TargetIn.model_validate(_target(n)) for n in range(10_000)}
    began = time.monotonic()
    job = store.import_targets(wanted, OnConflict.FAIL).job
    assert job is not None
    make_worker()
    while store.jobs().find(job.id).state is not JobState.DONE:
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    page = time.monotonic()
    found = store.target_page("t05000", 100)
    took = time.monotonic() - page

    assert [found[0].id, len(found)] == ["t05001", 100]
    assert store.count_targets()["active"] == 10_000
    print(f"import {page - began:.1f} s, page {took * 1000:.1f} ms")
