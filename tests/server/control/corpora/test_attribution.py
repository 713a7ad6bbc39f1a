"""Where a text comes from, and what is refused of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.settings import Settings
from tests.server.control.corpora.passages import CORPORA, OTHER, SECRET

AUDITOR = {"authorization": "Bearer auditor-key"}
Done = Callable[[httpx.Response], dict[str, Any]]


def test_documents_of_targets_are_indexed(
    admin: httpx.Client, settings: Settings, done: Done
) -> None:
    """A target's documents are in force with it, by its minimum, and gone from disk after it."""
    target = {
        "id": "ada",
        "documents": [{"text": SECRET, "source": "leak"}, {"text": OTHER}],
        "thresholds": {"minimum_match": 7},
    }
    assert done(admin.post("/admin/v1/targets", json=target))["state"] == "done"
    asked = {"text": "Well: THE LIGHTHOUSE keeper counted eleven copper kettles, they say."}
    [span] = admin.post("/admin/v1/provenance:attribute", json=asked).json()["spans"]
    refused = admin.post("/admin/v1/provenance:attribute", json=asked, headers=AUDITOR)
    [index] = (settings.corpora / "index").glob("@targets-*")

    assert (span["corpus"], span["words"], span["refused"]) == (
        "@targets-7-enforce-matched",
        7,
        True,
    )
    assert asked["text"][span["start"] : span["end"]].startswith("THE LIGHTHOUSE")
    [source] = span["sources"]
    assert source["source"] == "leak"
    assert source["passage"][source["start"] : source["end"]] == SECRET[: source["end"]]
    # Where it matches, word by word, would tell an auditor the document.
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "insufficient_permissions"
    target["documents"] = [{"text": OTHER}]
    done(admin.put("/admin/v1/targets/ada", json=target))
    assert admin.post("/admin/v1/provenance:attribute", json=asked).json()["spans"] == []
    done(admin.delete("/admin/v1/targets/ada"))
    assert list(index.glob("*.segment")) == []


def test_attribution_counts_and_allowed_text(admin: httpx.Client, done: Done) -> None:
    """Spans carry scores and counts; what an allowed corpus holds is not refused."""
    done(admin.post(CORPORA, json={"id": "book"}))
    done(admin.post(CORPORA, json={"id": "quotes", "label": "allowed"}))
    texts = [{"text": f"{SECRET}. {OTHER}"}, {"text": f"again {SECRET}"}]
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": texts}))
    done(admin.post(f"{CORPORA}/quotes/documents", json={"documents": [{"text": SECRET}]}))

    def spans(text: str) -> list[dict[str, Any]]:
        body = {"text": text, "corpus": "book"}
        found: list[dict[str, Any]] = admin.post(
            "/admin/v1/provenance:attribute", json=body
        ).json()["spans"]
        return found

    free, [held] = spans(f"he wrote: {SECRET}"), spans(OTHER)
    missing = admin.post("/admin/v1/provenance:attribute", json={"text": "x", "corpus": "no"})

    assert [] == [span for span in free if span["refused"]]
    assert (held["refused"], held["count"], held["words"]) == (True, 1, 15)
    assert held["nats"] > 5
    assert held["raw"] == pytest.approx(sum([held["raw"]]))
    assert missing.status_code == 404


def test_thresholds_are_calibrated_on_retained_texts(admin: httpx.Client, done: Done) -> None:
    """Texts of the same form as what is registered raise the threshold, and leave when they do."""
    form = "the author was born in the coastal town and wrote about"
    done(admin.post(CORPORA, json={"id": "book"}))
    text = {"text": f"{form} lighthouses. {SECRET}"}
    done(admin.post(f"{CORPORA}/book/documents", json={"documents": [text]}))
    before = admin.get(f"{CORPORA}/book").json()["threshold"]
    done(admin.post(CORPORA, json={"id": "others", "label": "retain"}))
    others = [{"text": f"{form} {i} rivers and seas of the north"} for i in range(60)]
    done(admin.post(f"{CORPORA}/others/documents", json={"documents": others[:40]}))
    too_few = admin.get(f"{CORPORA}/book").json()["threshold"]
    done(admin.post(f"{CORPORA}/others/documents", json={"documents": others}))
    shown = admin.get(f"{CORPORA}/book").json()
    asked = [f"{form} {i} mountains" for i in ("other", "high")] + [SECRET]
    found = []
    for asking in asked:
        answer = admin.post("/admin/v1/provenance:attribute", json={"text": asking}).json()
        assert {span["corpus"] for span in answer["spans"]} == {"book"}
        found.append(any(span["refused"] for span in answer["spans"]))
    wrong = admin.post(CORPORA, json={"id": "x", "label": "retain", "scope": "always"})
    done(admin.delete(f"{CORPORA}/others"))
    after = admin.get(f"{CORPORA}/book").json()["threshold"]

    assert before == too_few == after == 0
    assert 4 < shown["threshold"] < 9
    assert found == [False, False, True]
    assert wrong.status_code == 422
