"""Corpora that are vetoed while tokens are chosen: with the policy, and by every worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from guard.follower import Active, Follower
from guard.vetoed import corpora_in
from server.settings import Settings
from tests.server.control.corpora.passages import CORPORA, OTHER, SECRET, flip_bit

Done = Callable[[httpx.Response], dict[str, Any]]


def test_documents_are_vetoed_as_they_come_and_go(
    admin: httpx.Client,
    settings: Settings,
    done: Done,
    follow: Callable[..., Follower],
    follow_corpora: Callable[..., Follower],
) -> None:
    """A job is done when the workers have the policy; what is erased is in no policy any more."""
    worker, _ = follow(), follow_corpora()

    def vetoed() -> tuple[int, Any, set[str]]:
        digest = worker.state.digest
        active = corpora_in(settings.snapshots / digest).get("book")
        holding = {p.name for p in settings.snapshots.glob("*/") if corpora_in(p)}
        return worker.state.generation, active and active["veto"]["documents"], holding - {digest}

    book = {"id": "book", "veto": True, "scope": "always", "minimum_match_tokens": 12}
    assert done(admin.post(CORPORA, json=book))["state"] == "done"
    texts = [{"text": SECRET}, {"text": OTHER}]
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": texts}))
    added, shown = vetoed(), admin.get(f"{CORPORA}/book").json()
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": texts}))
    same = vetoed()
    done(admin.delete(f"{CORPORA}/book/documents/0"))
    withdrawn = vetoed()
    (settings.snapshots / "stray").touch()  # no snapshot: it hinders nothing
    done(admin.delete(f"{CORPORA}/book/documents/0", params={"erase": "true"}))
    erased = vetoed()
    done(admin.post(CORPORA, json={"id": "plain"}))
    done(admin.post(f"{CORPORA}/plain/documents", json={"documents": texts}))
    unconcerned = vetoed()
    done(admin.delete(f"{CORPORA}/book"))
    deleted = vetoed()

    assert added[1:] == (2, set())
    assert (shown["veto"], shown["minimum_match_tokens"]) == (True, 12)
    assert shown["vetoed"] == {"documents": 2}
    assert same == added
    assert (withdrawn[0], withdrawn[1], len(withdrawn[2])) == (added[0] + 1, 1, 1)
    assert erased == (withdrawn[0], 1, set()) == unconcerned
    assert deleted == (withdrawn[0] + 1, None, set())


def test_a_veto_that_is_not_in_force_fails_the_job(
    admin: httpx.Client, settings: Settings, done: Done, follow: Callable[..., Follower]
) -> None:
    """A worker that cannot load it, or too much text, is a failed job with a code."""
    done(admin.post(CORPORA, json={"id": "book", "veto": True}))

    def refuse(active: Active) -> None:
        if corpora_in(settings.snapshots / active.digest):
            raise OSError

    worker = follow(refuse)
    documents = {"documents": [{"text": SECRET}]}
    refused = done(admin.post(f"{CORPORA}/book/documents", json=documents))
    large = {"documents": [{"text": "so many words " * 10_000}]}
    too_large = done(admin.post(f"{CORPORA}/book/documents", json=large))

    assert (refused["state"], refused["error"]["code"]) == ("failed", "corpus_not_vetoed")
    assert "could not load the policy" in refused["error"]["message"]
    assert (too_large["state"], too_large["error"]["code"]) == ("failed", "corpus_too_large")
    assert admin.get(f"{CORPORA}/book").json()["documents"] == 1
    assert not corpora_in(settings.snapshots / worker.state.digest)


def test_a_vetoed_corpus_that_is_damaged_stops_the_policy(
    admin: httpx.Client, settings: Settings, done: Done, follow: Callable[..., Follower]
) -> None:
    """No policy comes into force without it: the last good one rules on, and the job says why."""
    worker = follow()
    done(admin.post(CORPORA, json={"id": "book", "veto": True}))
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": [{"text": SECRET}]}))
    before = worker.state.generation
    [segment] = (settings.corpora / "index").glob("book-*/*.segment")
    flip_bit(segment)
    assert done(admin.post(f"{CORPORA}/book:verify", json={}))["state"] == "failed"
    target = {"id": "ada", "phrases": ["Ada"]}
    stopped = done(admin.post("/admin/v1/targets", json=target))
    assert worker.state.generation == before
    gone = done(admin.delete(f"{CORPORA}/book"))

    assert (stopped["state"], stopped["error"]["code"]) == ("failed", "policy_not_compiled")
    assert "index of the corpus book cannot be read" in stopped["error"]["message"]
    assert gone["state"] == "done"
    assert not corpora_in(settings.snapshots / worker.state.digest)
