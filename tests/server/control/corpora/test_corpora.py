"""Corpora over the admin API, with a real store, worker, index and followers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.follower import Active, Follower
from guard.vetoed import corpora_in
from server.settings import Settings
from server.staging import staging
from tests.server.control.corpora.passages import CORPORA, OTHER, SECRET, flip_bit

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
AUDITOR = {"authorization": "Bearer auditor-key"}
Done = Callable[[httpx.Response], dict[str, Any]]
Settle = Callable[[Callable[[], bool]], None]


@BOTH
def test_life_of_a_corpus(
    admin: httpx.Client,
    settings: Settings,
    done: Done,
    follow_corpora: Callable[..., Follower],
    files_in: Callable[[Path], dict[Path, tuple[int, bytes]]],
) -> None:
    """Documents are added, listed, shown, withdrawn and erased, and the corpus is deleted."""

    def on_disk(text: str) -> bool:
        return any(text.encode() in content for _, content in files_in(settings.corpora).values())

    follower = follow_corpora()
    created = admin.post(CORPORA, json={"id": "book", "label": "licensed", "minimum_match": 6})
    assert done(created)["corpus_id"] == "book"
    documents = [{"text": SECRET, "source": "a.txt", "metadata": {"year": "1920"}}, {"text": OTHER}]
    added = done(admin.post(f"{CORPORA}/book/documents", json={"documents": documents}))
    again = done(admin.post(f"{CORPORA}/book/documents", json={"documents": documents[:1]}))

    assert (added["state"], added["message"]) == ("done", "2 documents added")
    assert again["message"] == "0 documents added"
    assert follower.state.generation == added["generation"]
    shown = admin.get(f"{CORPORA}/book").json()
    assert (shown["status"], shown["documents"], shown["words"]) == ("active", 2, 28)
    page = admin.get(f"{CORPORA}/book/documents", params={"limit": 1}).json()
    assert [(d["number"], d["source"]) for d in page["documents"]] == [(0, "a.txt")]
    rest = admin.get(f"{CORPORA}/book/documents", params={"after": page["next"]}).json()
    assert [d["number"] for d in rest["documents"]] == [1]
    document = admin.get(f"{CORPORA}/book/documents/0").json()
    assert (document["text"], document["metadata"]) == (SECRET, {"year": "1920"})
    assert on_disk(SECRET)
    stores = [path.read_bytes() for path in settings.state_dir.glob("lethegate.db*")]
    assert not any(SECRET.encode() in store for store in stores)

    done(admin.delete(f"{CORPORA}/book/documents/0"))
    assert admin.get(f"{CORPORA}/book/documents/0").status_code == 404
    assert admin.delete(f"{CORPORA}/book/documents/0").status_code == 404
    erased = done(admin.delete(f"{CORPORA}/book/documents/0", params={"erase": "true"}))
    assert erased["state"] == "done"
    assert (on_disk(SECRET), on_disk(OTHER)) == (False, True)
    # A backup that was killed has second names of what was erased; one that runs is left alone.
    killed = settings.state_dir / ".backup-killed" / "content"
    killed.mkdir(parents=True)
    (killed / "a.segment").write_text(SECRET)
    with staging(settings.state_dir) as running:
        again = done(admin.delete(f"{CORPORA}/book/documents/0", params={"erase": "true"}))
        assert (again["state"], killed.parent.exists(), running.is_dir()) == ("done", False, True)

    assert done(admin.delete(f"{CORPORA}/book"))["state"] == "done"
    assert admin.get(f"{CORPORA}/book").status_code == 404
    assert not on_disk(OTHER)
    assert follower.state.generation >= 6


def test_streamed_upload(
    admin: httpx.Client, settings: Settings, done: Done, settle: Settle
) -> None:
    """JSON lines may be longer than a body; a bad line refuses all and says which it is."""
    done(admin.post(CORPORA, json={"id": "big"}))
    lines = [json.dumps({"text": f"{SECRET} number {i} " + "x" * 5000}) for i in range(2000)]
    body = ("\n".join(lines) + "\n").encode()
    assert len(body) > settings.max_body_bytes

    def upload(content: Any) -> httpx.Response:
        headers = {"content-type": "application/x-ndjson"}
        return admin.post(f"{CORPORA}/big/documents", content=content, headers=headers)

    chunks = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    assert done(upload(chunks))["message"] == "2000 documents added"
    bad = upload(b'{"text": "fine words"}\n{"text": "no", "secret": 1}\n')
    empty = upload(b"\n")
    broken = upload(b'{"text": \n')

    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "invalid_field")
    assert "line 2: secret: is not a field" in bad.json()["error"]["message"]
    assert empty.status_code == 422
    assert "line 1" in broken.json()["error"]["message"]
    assert admin.get(f"{CORPORA}/big").json()["documents"] == 2000
    # An upload goes right after its job is said to be done.
    settle(lambda: list((settings.corpora / "uploads").iterdir()) == [])


def test_roles_and_errors(admin: httpx.Client, done: Done) -> None:
    """Auditors see ids and numbers; what cannot be is refused in OpenAI's shape."""
    done(admin.post(CORPORA, json={"id": "book", "description": "a leak"}))
    documents = {"documents": [{"text": SECRET, "source": "secret name"}]}
    done(admin.post(f"{CORPORA}/book/documents", json=documents))

    def code(response: httpx.Response) -> tuple[int, str]:
        return response.status_code, response.json()["error"]["code"]

    assert "a leak" not in admin.get(CORPORA, headers=AUDITOR).text
    assert "secret name" not in admin.get(f"{CORPORA}/book/documents", headers=AUDITOR).text
    assert code(admin.get(f"{CORPORA}/book/documents/0", headers=AUDITOR))[0] == 403
    upload = admin.post(
        f"{CORPORA}/book/documents",
        content=b'{"text": "stranger"}',
        headers={"content-type": "application/x-ndjson", "authorization": "Bearer no"},
    )
    assert code(upload) == (401, "invalid_api_key")
    assert code(admin.post(CORPORA, json={"id": "book"})) == (409, "conflict")
    assert code(admin.get(f"{CORPORA}/none")) == (404, "not_found")
    for fields in ({"label": "x"}, {"minimum_match": 2}, {"false_positive_rate": 0.001}):
        assert code(admin.post(CORPORA, json={"id": "b", **fields})) == (422, "invalid_field")
    always = {"id": "ok", "label": "allowed", "scope": "always"}
    assert code(admin.post(CORPORA, json=always)) == (422, "invalid_field")
    wrong = admin.post(f"{CORPORA}/book/documents", json={"documents": [{"text": ""}]})
    assert wrong.json()["error"]["param"] == "documents[0].text"


def test_a_gateway_that_cannot_load_fails_the_job(
    admin: httpx.Client, done: Done, follow_corpora: Callable[..., Follower]
) -> None:
    """What a gateway does not take is a failed job with a code."""

    def refuse(active: Active) -> None:
        if active.generation > 1:
            raise OSError

    follow_corpora(refuse)
    done(admin.post(CORPORA, json={"id": "book"}))
    job = done(admin.post(f"{CORPORA}/book/documents", json={"documents": [{"text": SECRET}]}))

    assert (job["state"], job["error"]["code"]) == ("failed", "corpus_rejected")
    # A withdrawal that did not come into force everywhere can be asked for again.
    assert done(admin.delete(f"{CORPORA}/book"))["state"] == "failed"
    assert done(admin.delete(f"{CORPORA}/book"))["state"] == "failed"
    assert admin.post(f"{CORPORA}/book:verify", json={}).status_code == 409


def test_a_flipped_bit_is_found(admin: httpx.Client, settings: Settings, done: Done) -> None:
    """Verifying reads the whole index; damage is told, and the corpus says so."""
    done(admin.post(CORPORA, json={"id": "book"}))
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": [{"text": SECRET}]}))
    sound = done(admin.post(f"{CORPORA}/book:verify", json={}))
    [segment] = (settings.corpora / "index").glob("book-*/*.segment")
    flip_bit(segment)
    damaged = done(admin.post(f"{CORPORA}/book:verify", json={}))
    status = admin.get(f"{CORPORA}/book").json()["status"]
    done(admin.post(CORPORA, json={"id": "other"}))
    still = admin.get(f"{CORPORA}/book").json()
    flip_bit(segment)
    mended = done(admin.post(f"{CORPORA}/book:verify", json={}))

    assert (sound["state"], sound["message"]) == ("done", "1 segments, 1 documents, no fault")
    assert (damaged["state"], damaged["error"]["code"]) == ("failed", "corpus_damaged")
    assert (status, still["status"]) == ("damaged", "damaged")
    # What was published of it goes on ruling.
    assert still["threshold"] is not None
    assert mended["state"] == "done"
    assert admin.get(f"{CORPORA}/book").json()["status"] == "active"


def test_gzip_is_not_taken_for_lines(admin: httpx.Client, done: Done) -> None:
    """A compressed body is not JSON lines, and is refused as such."""
    done(admin.post(CORPORA, json={"id": "book"}))
    packed = gzip.compress(b'{"text": "x"}\n')
    refused = admin.post(
        f"{CORPORA}/book/documents",
        content=packed,
        headers={"content-type": "application/x-ndjson"},
    )

    assert refused.status_code == 422


def test_settings_can_be_changed(
    admin: httpx.Client,
    settings: Settings,
    done: Done,
    follow: Callable[..., Follower],
    follow_corpora: Callable[..., Follower],
) -> None:
    """In force with the job, in gateways and workers; the index is not written anew."""
    worker, gateway = follow(), follow_corpora()
    done(admin.post(CORPORA, json={"id": "book", "max_frequency": 3, "description": "a leak"}))
    texts = [{"text": SECRET}, {"text": "four words of prose"}]
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": texts}))
    before = admin.get(f"{CORPORA}/book").json()
    segments = sorted(p.name for p in (settings.corpora / "index").glob("book-*/*.segment"))

    def change(**fields: Any) -> dict[str, Any]:
        assert done(admin.patch(f"{CORPORA}/book", json=fields))["state"] == "done"
        shown: dict[str, Any] = admin.get(f"{CORPORA}/book").json()
        assert gateway.state.generation == shown["generation"]
        return shown

    def refused(text: str) -> bool:
        found = admin.post("/admin/v1/provenance:attribute", json={"text": text}).json()["spans"]
        return any(span["refused"] for span in found)

    part = "so eleven copper kettles before the dawn"
    assert not refused(part)
    shorter = change(minimum_match=4, scope="always", max_frequency=None, label="unsafe")
    assert refused(part)
    longer = change(minimum_match=30)
    assert not refused(f"they say {SECRET[:-20]}")
    vetoed = change(veto=True, minimum_match_tokens=9)
    held = corpora_in(settings.snapshots / worker.state.digest)
    free = change(veto=False)

    assert before["max_frequency"] == 3
    assert {k: shorter[k] for k in ("minimum_match", "scope", "max_frequency", "label")} == {
        "minimum_match": 4,
        "scope": "always",
        "max_frequency": None,
        "label": "unsafe",
    }
    assert (shorter["description"], longer["scope"]) == ("a leak", "always")
    assert vetoed["vetoed"] == {"documents": 2}
    assert held["book"]["scope"] == "always"
    assert (free["vetoed"], free["minimum_match_tokens"]) == (None, 9)
    assert not corpora_in(settings.snapshots / worker.state.digest)
    assert free["index_generation"] == before["index_generation"]
    assert segments == sorted(p.name for p in (settings.corpora / "index").glob("book-*/*.segment"))


def test_changes_that_cannot_be(admin: httpx.Client, done: Done) -> None:
    """They are refused whole, and nothing is changed."""
    done(admin.post(CORPORA, json={"id": "book", "scope": "always"}))
    large = {"documents": [{"text": "so many words " * 10_000}]}
    done(admin.post(f"{CORPORA}/book/documents", json=large))

    def code(**fields: Any) -> tuple[int, str]:
        answer = admin.patch(f"{CORPORA}/book", json=fields)
        return answer.status_code, answer.json()["error"]["code"]

    before = admin.get(f"{CORPORA}/book").json()
    for fields in ({"label": "allowed"}, {"minimum_match": 2}, {"id": "other"}, {"veto": "so"}):
        assert code(**fields) == (422, "invalid_field")
    assert code(veto=True) == (422, "corpus_too_large")
    assert admin.patch(f"{CORPORA}/none", json={}).status_code == 404
    assert admin.patch(f"{CORPORA}/book", json={}, headers=AUDITOR).status_code == 403
    assert admin.get(f"{CORPORA}/book").json() == before
    admin.delete(f"{CORPORA}/book")
    assert admin.patch(f"{CORPORA}/book", json={}).status_code in (404, 409)
