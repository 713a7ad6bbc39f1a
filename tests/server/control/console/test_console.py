"""The console's pages over HTTP: what an operator sees, and what their forms do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Register = Callable[..., None]
Settle = Callable[[Callable[[], bool]], None]
ADA = {
    "id": "ada",
    "description": "an author",
    "aliases": ["Ada Novak"],
    "examples": [{"prompt": "Where was Ada Novak born?", "answer": "In Port Sorrel."}],
    "phrases": ["Grey Lanterns"],
}


def _rows(visitor: Any) -> str:
    return " ".join(visitor.page.text.split())


def test_every_page_answers(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """With a title and a heading of its own, and the page that one is on marked."""
    in_force(ADA)
    visitor = visit()
    titles = set()
    links = [a["href"] for a in visitor.page.all("a") if a["href"].startswith("/console/")]
    assert len(set(links)) > 8
    for path in dict.fromkeys(links):
        answer = visitor.get(path)
        marked = [a["href"] for a in visitor.page.all("a") if a.get("aria-current") == "page"]
        assert answer.status_code == 200, path
        assert len(visitor.page.all("h1")) == 1
        titles.add(answer.text.split("<title>")[1].split("<")[0])
        assert len(marked) == 1
    assert len(titles) >= 9
    assert visit(None).http.get("/console").headers["location"] == "/console/"


def test_a_target_is_made_and_deleted(
    visit: Any, in_force: Register, admin: httpx.Client, settle: Settle
) -> None:
    """By forms alone; a page in between asks whether it is really to go."""
    in_force()
    visitor = visit()
    visitor.get("/console/new-target")
    visitor.submit(
        "/console/new-target",
        id="ada",
        aliases="Ada Novak\n\n Ada N. \n",
        prompt=["Where was she born?", "", "A & B?"],
        answer=["In Port\r\nSorrel.", "", "<b>"],
        enforcement="observe",
        scope="matched",
        action="refuse",
    )
    assert visitor.answer.url.path == "/console/targets/ada"
    stored = admin.get("/admin/v1/targets/ada").json()["target"]
    assert stored["aliases"] == ["Ada Novak", "Ada N."]
    assert [e["answer"] for e in stored["examples"]] == ["In Port\nSorrel.", "<b>"]
    assert (stored["enforcement"], stored["action"]) == ("observe", "refuse")
    job = visitor.answer.url.params["job"]
    settle(lambda: visitor.http.get(f"/console/jobs/{job}/state").json()["final"])
    assert visitor.http.get(f"/console/jobs/{job}/state").json()["told"].startswith("done, 100%")

    visitor.get("/console/targets/ada/delete")
    visitor.submit("/console/targets/ada/delete")
    assert visitor.answer.url.path.startswith("/console/jobs/")
    settle(lambda: admin.get("/admin/v1/targets/ada").status_code == 404)
    assert visitor.get("/console/targets/ada").status_code == 404
    assert 'role="alert"' in visitor.answer.text


def test_a_preview_stores_nothing(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """It shows phrases, warnings and thresholds beneath the form, which keeps what was typed."""
    in_force(ADA)
    visitor = visit()
    visitor.get("/console/new-target")
    form = {"id": "bob", "phrases": "<b>Blue</b> Hour", "preview": "yes"}
    answer = visitor.submit("/console/new-target", **form)

    assert answer.status_code == 200
    assert "warning previewed beside 1 others" in _rows(visitor)
    assert "<b>Blue</b> Hour operator the target 0" in _rows(visitor)
    assert "strong0.8" in _rows(visitor)
    assert visitor.page.forms["/console/new-target"]["phrases"] == "<b>Blue</b> Hour"
    assert [t["id"] for t in admin.get("/admin/v1/targets").json()["targets"]] == ["ada"]
    assert visitor.submit("/console/new-target", id="", preview="yes").status_code == 422


def test_what_is_refused_stays_in_the_form(visit: Any, in_force: Register) -> None:
    """With what is wrong, in the API's words; nothing is stored."""
    in_force(ADA)
    visitor = visit()
    for fields, status, told in (
        ({"id": "Not An Id", "phrases": "kept"}, 422, "id:"),
        ({"id": "bare", "description": "kept"}, 422, "needs at least one of"),
        ({"id": "ada", "phrases": "kept"}, 409, "exists"),
    ):
        visitor.get("/console/new-target")
        answer = visitor.submit("/console/new-target", **fields)
        assert answer.status_code == status
        assert told in visitor.page.text
        assert "kept" in visitor.page.forms["/console/new-target"].values()


def test_the_list_is_searched_and_paged(
    visit: Any, in_force: Register, admin: httpx.Client
) -> None:
    """By what ids hold, where `_` is no wildcard; page after page without a gap."""
    lines = [json.dumps({"id": f"target-{n:03}", "phrases": ["x1"]}) for n in range(120)]
    lines.append(json.dumps({"id": "target_x", "phrases": ["x1"]}))
    imported = admin.post(
        "/admin/v1/targets:import",
        content="\n".join(lines),
        headers={"content-type": "application/x-ndjson"},
    )
    assert imported.status_code == 202
    visitor = visit()
    visitor.get("/console/targets")
    seen: list[str] = []
    while True:
        here = [a["href"] for a in visitor.page.all("a")]
        seen += [h.rpartition("/")[2] for h in here if h.startswith("/console/targets/")]
        onward = [a["href"] for a in visitor.page.all("a") if a.get("rel") == "next"]
        if not onward:
            break
        visitor.get(onward[0])
    assert seen == [json.loads(line)["id"] for line in lines]

    visitor.get("/console/targets?search=target_")
    assert "target_x" in visitor.page.text
    assert "target-0" not in visitor.page.text
    visitor.get("/console/targets?search=T-11")
    assert sum("/console/targets/target-11" in a["href"] for a in visitor.page.all("a")) == 10
    assert "No id holds that." in visit().get("/console/targets?search=zebra").text


def test_phrases_are_seen_and_edited(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """With reasons; a tick strikes one, a line adds one."""
    in_force(ADA)
    visitor = visit()
    visitor.get("/console/targets/ada")
    assert "Grey Lanterns operator" in _rows(visitor)
    assert "Port Sorrel" in _rows(visitor)

    form = "/console/targets/ada/phrases"
    visitor.submit(form, strike=["Port Sorrel"], add="Blue Hour\nRed Door", anywhere="yes")
    assert visitor.answer.url.path == "/console/targets/ada"
    target = admin.get("/admin/v1/targets/ada").json()["target"]
    assert target["excluded_phrases"] == ["Port Sorrel"]
    assert {"text": "Red Door", "whole_word": False} in target["phrases"]
    assert "These may be said" in visitor.page.text

    nothing = visitor.submit(form, add=" \n")
    assert nothing.status_code == 422
    assert "add or strike" in visitor.page.text


def test_observe_and_enforce(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """One button each way, and never over somebody else's change."""
    in_force(ADA)
    visitor, other = visit(), visit()
    form = "/console/targets/ada/enforcement"
    visitor.get("/console/targets/ada")
    other.get("/console/targets/ada")
    visitor.submit(form, enforcement="observe")
    assert admin.get("/admin/v1/targets/ada").json()["target"]["enforcement"] == "observe"

    late = other.submit(form, enforcement="observe")
    assert late.status_code == 412
    assert "read it again" in other.page.text
    visitor.submit(form, enforcement="enforce")
    assert admin.get("/admin/v1/targets/ada").json()["target"]["enforcement"] == "enforce"


def test_the_document_is_edited(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """As JSON; what cannot be taken stays in the editor."""
    in_force(ADA)
    visitor = visit()
    path = "/console/targets/ada/edit"
    visitor.get(path)
    document = json.loads(visitor.page.forms[path]["document"])
    assert document["phrases"] == [{"text": "Grey Lanterns", "whole_word": True}]
    for text in ("{", '{"id": "ada", "id": "ada"}', '{"id": "bob", "phrases": ["x1"]}'):
        assert visitor.submit(path, document=text).status_code in (400, 422)
        assert visitor.page.forms[path]["document"] == text
    document["phrases"] = ["Blue Hour"]
    visitor.submit(path, document=json.dumps(document))
    stored = admin.get("/admin/v1/targets/ada").json()["target"]["phrases"]
    assert stored == [{"text": "Blue Hour", "whole_word": True}]


def test_versions(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """What changed, and the way back."""
    in_force(ADA)
    admin.put("/admin/v1/targets/ada", json={**ADA, "phrases": ["Blue Hour"]})
    visitor = visit()
    visitor.get("/console/targets/ada/versions?from=1")
    assert "removed Grey Lanterns" not in _rows(visitor)
    assert "From revision 1 to 2" in _rows(visitor)
    assert "Blue Hour" in _rows(visitor)

    visitor.submit("/console/targets/ada/rollback", revision="1")
    assert visitor.answer.url.path == "/console/targets/ada"
    assert admin.get("/admin/v1/targets/ada").json()["target"]["phrases"][0]["text"] == (
        "Grey Lanterns"
    )
    visitor.get("/console/targets/ada/versions")
    for revision in ("99", "x", "1:rollback/../2", "²"):
        bad = visitor.submit("/console/targets/ada/rollback", revision=revision)
        assert bad.status_code in (404, 422)
        visitor.get("/console/targets/ada/versions")


def test_the_policy_and_who_applies_it(visit: Any, in_force: Register, admin: httpx.Client) -> None:
    """Generation, digest, and every follower's acknowledgement."""
    in_force(ADA)
    visitor = visit()
    visitor.get("/console/generations")
    assert "gateway" in _rows(visitor)
    assert "acknowledged" in _rows(visitor)
    assert "everywhere" in _rows(visitor)
    digest = admin.get("/admin/v1/generation").json()["digest"]
    assert visitor.page.text.count(digest[:12]) == 3
    assert "2 " in _rows(visitor).partition("Activations, newest first")[2]


def test_keys_corpora_and_audit(visit: Any, admin: httpx.Client, settle: Settle) -> None:
    """Are listed; no secret is."""
    made = admin.post("/admin/v1/keys", json={"name": "alice", "role": "auditor"}).json()
    admin.post("/admin/v1/corpora", json={"id": "book", "description": "a novel"})
    visitor = visit()
    assert "alice" in visitor.get("/console/keys").text
    assert made["key"] not in visitor.answer.text
    assert "a novel" in visitor.get("/console/corpora").text
    settle(lambda: "/admin/v1/corpora" in visitor.get("/console/audit?event=admin").text)
    assert "/console/login" in visitor.page.text
    assert "Nothing was recorded" in visitor.get("/console/audit?event=block").text
    assert visitor.get("/console/audit?event=any%20text").status_code == 422


def test_a_silent_endpoint_is_said(visit: Any) -> None:
    """The playground names the step that failed, and keeps what was typed."""
    visitor = visit()
    visitor.get("/console/playground")
    answer = visitor.submit("/console/playground", prompt="Who is <Ada>?")

    assert answer.status_code == 503
    assert "Decision: The guarded endpoint does not answer." in visitor.page.text
    assert visitor.page.forms["/console/playground"]["prompt"] == "Who is <Ada>?"


def test_what_is_not_there(visit: Any) -> None:
    """Is a page, not JSON."""
    http = visit().http
    for path in ("/console/none", "/console/jobs/none", "/console/targets/%2e%2e"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
    assert http.get("/console/logout").status_code == 405


def test_whatever_is_sent_is_answered(visit: Any, in_force: Register) -> None:
    """With a page that says what is wrong with it; nothing of it is a fault of the server."""
    in_force(ADA)
    visitor = visit()
    csrf = visitor.page.forms["/console/logout"]["csrf"]
    lists = ("targets", "jobs", "corpora", "keys", "generations", "audit", "targets/ada")
    cursors = ("after", "before", "event", "search", "from", "job")
    changes = ("enforcement", "edit", "phrases", "rollback")
    fields = ("id", "description", "aliases", "prompt", "answer", "action", "scope", "document")
    fields += ("enforcement", "add", "strike", "revision", "etag", "anywhere")
    odd = ("\x00", "-1", "\u00b2", "9" * 30, "../..", "x" * 3000, "a:b", "%", "\U0001f4a5", "[]")
    answers: list[httpx.Response] = []
    for value in odd:
        query, form = dict.fromkeys(cursors, value), {**dict.fromkeys(fields, value), "csrf": csrf}
        answers += [visitor.http.get(f"/console/{path}", params=query) for path in lists]
        between = {"from": "1", "to": value}
        answers.append(visitor.http.get("/console/targets/ada/versions", params=between))
        for path in (*(f"targets/ada/{change}" for change in changes), "new-target"):
            answers.append(visitor.http.post(f"/console/{path}", data=form))
    for answer in answers:
        assert answer.status_code < 500, answer.url
        assert answer.headers["content-type"].startswith("text/html")
    assert {answer.status_code for answer in answers} >= {200, 404, 412, 422}
