"""`Idempotency-Key`: what is sent again is answered again and done once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from server import replays as module
from server.database import Database
from server.errors import Conflict
from server.replays import Answer, Replays
from server.store import Store

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
TARGETS = "/admin/v1/targets"
AUDITOR = "Bearer auditor-key"


def _target(name: str = "ada", **fields: Any) -> dict[str, Any]:
    return {"id": name, "phrases": ["Port Sorrel"], **fields}


def _post(
    admin: httpx.Client, key: str, body: dict[str, Any], path: str = TARGETS, **headers: str
) -> httpx.Response:
    return admin.post(path, json=body, headers={"idempotency-key": key, **headers})


@BOTH
def test_sent_again(admin: httpx.Client, database: Database) -> None:
    """The same answer with the same headers; the target is there once, with one job."""
    first, again = _post(admin, "k1", _target()), _post(admin, "k1", _target())

    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]
    registered = admin.get("/admin/v1/jobs").json()["jobs"]
    assert [job["kind"] for job in registered].count("register") == 1
    assert _post(admin, "k2", _target()).status_code == 409
    # What the caller has to mend is an answer, too.
    admin.delete(f"{TARGETS}/ada")
    assert _post(admin, "k2", _target()).headers["idempotent-replayed"] == "true"


def test_another_request(admin: httpx.Client) -> None:
    """A key stands for one request of one caller: another body or path is refused."""
    _post(admin, "k1", _target())

    for body, path in (
        (_target("eve"), TARGETS),
        (_target(), f"{TARGETS}?x=1"),
        ({"add": ["x"]}, f"{TARGETS}/ada/phrases"),
    ):
        answer = _post(admin, "k1", body, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            422,
            "idempotency_key_reused",
        )
    # Another caller's key of the same name is another key.
    assert _post(admin, "k1", _target(), authorization=AUDITOR).status_code == 403
    assert admin.get(f"{TARGETS}/eve").status_code == 404


def test_refused_keys(admin: httpx.Client) -> None:
    """Bad keys, bodies that are not read whole, and answers with an API key or forget text."""
    lines = {"content-type": "application/x-ndjson", "idempotency-key": "k"}
    for answer in (
        _post(admin, "a b", _target()),
        _post(admin, "x" * 256, _target()),
        admin.post(f"{TARGETS}:import", content=b"{}", headers=lines),
        _post(admin, "k", {"name": "n", "role": "client"}, "/admin/v1/keys"),
        _post(admin, "k", _target(), f"{TARGETS}:preview"),
        _post(admin, "k", {"text": "x"}, "/admin/v1/provenance:attribute"),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "Idempotency-Key")
    assert admin.get(TARGETS).json()["targets"] == []
    assert _post(admin, "k", _target(), authorization="Bearer no").status_code == 401
    assert admin.get(TARGETS, headers={"idempotency-key": "a b"}).status_code == 200


def test_at_once(admin: httpx.Client) -> None:
    """Of the same request sent many times at once one is done; the others wait or are told."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _post(admin, "k", _target()), range(16)))

    done = [answer for answer in answers if answer.status_code == 202]
    assert {answer.json()["job"]["id"] for answer in done} == {done[0].json()["job"]["id"]}
    others = {(a.status_code, a.json()["error"]["param"]) for a in answers if a not in done}
    assert others <= {(409, "Idempotency-Key")}


@BOTH
def test_life_of_an_answer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun, kept, given again, forgotten after a day; taken over from a process that died."""
    replays, answer = Replays(database), Answer(202, (("etag", '"é"'),), '{"a": "Port Sorrel"}')
    assert replays.begin("k", "r") is None
    with pytest.raises(Conflict):
        replays.begin("k", "r")
    replays.finish("k", answer)
    assert replays.begin("k", "r") == answer
    replays.begin("dead", "r")
    now = time.time()
    clock = SimpleNamespace(time=lambda: now + module.BEGUN_SECONDS + 1)
    monkeypatch.setattr(module, "time", clock)
    assert replays.begin("dead", "r") is None
    replays.finish("dead", None)
    assert replays.begin("dead", "other") is None
    clock.time = lambda: now + module.KEPT_SECONDS + 1
    assert replays.begin("k", "r") is None
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM replays")).scalar() == 2


@BOTH
def test_kept_answers_go_by_themselves(database: Database) -> None:
    """After a day, whether or not another request comes: they may tell of a target that is gone."""
    replays, store = Replays(database), Store(database)
    replays.begin("k", "r")
    replays.finish("k", Answer(202, (), '{"description": "Port Sorrel"}'))

    def kept() -> object:
        with database.read() as connection:
            return connection.execute(text("SELECT count(*) FROM replays")).scalar()

    store.expire(time.time() + module.KEPT_SECONDS - 60)
    assert kept() == 1
    store.expire(time.time() + module.KEPT_SECONDS + 1)
    assert kept() == 0


def test_a_failure_may_be_tried_again(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 500 is not kept."""
    monkeypatch.setattr(Store, "register", lambda *_: 1 / 0)
    assert _post(admin, "k", _target()).status_code == 500
    monkeypatch.undo()

    assert _post(admin, "k", _target()).status_code == 202
