"""Who gets in, what a browser may keep, and which forms are taken."""

from __future__ import annotations

import re
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest

from server.console.attempts import MOST, MOST_OF_ONE_ADDRESS, WINDOW_SECONDS, Attempts
from server.console.sessions import (
    IDLE_SECONDS,
    LONGEST_SECONDS,
    MOST_OF_ONE_KEY,
    Sessions,
)
from server.console.sessions import MOST as MOST_SESSIONS
from server.errors import Overloaded, RateLimited
from server.log import configure_logging

LOGIN = "/console/login"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 1234 * 4321 }}'
PAGES = (
    "/console/",
    "/console/targets",
    "/console/jobs",
    "/console/generations",
    "/console/corpora",
    "/console/keys",
    "/console/nodes",
    "/console/audit",
    "/console/playground",
)


def test_the_cookie(visit: Any) -> None:
    """Is random, for this path only, and out of reach of scripts and other sites."""
    visitor = visit(None)
    answers = [visitor.http.post(LOGIN, data={"key": "admin-key"}) for _ in range(2)]
    cookies = [SimpleCookie(a.headers["set-cookie"])["lethegate_console"] for a in answers]

    assert [a.status_code for a in answers] == [303, 303]
    assert answers[0].headers["location"] == "/console/"
    assert cookies[0].value != cookies[1].value
    assert len(cookies[0].value) >= 43
    for cookie in cookies:
        assert cookie["httponly"]
        assert cookie["samesite"].lower() == "strict"
        assert cookie["path"] == "/console"
        assert not cookie["max-age"]
    assert "admin-key" not in str(answers[0].headers) + answers[0].text


def test_strangers_see_nothing(visit: Any) -> None:
    """Every page leads to the login, every form too, before it is read."""
    visitor = visit(None)
    for path in (*PAGES, "/console/targets/ada", "/console/new-target"):
        answer = visitor.http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, LOGIN)
    for path in ("/console/new-target", "/console/logout", "/console/targets/ada/delete"):
        answer = visitor.http.post(path, content=b"x" * 10_000_000)
        assert (answer.status_code, answer.headers["location"]) == (303, LOGIN)
    assert visitor.http.get("/console/jobs/1/state").status_code == 401
    visitor.http.cookies.set("lethegate_console", "guess", path="/console")
    assert visitor.http.get("/console/").headers["location"] == LOGIN


def test_wrong_keys(visit: Any) -> None:
    """Open nothing, and are not repeated."""
    http = visit(None).http
    wrong = {"": 401, "nobody's": 401, "\ud7ff\x00": 401, "client-key": 403}
    for key, status in wrong.items():
        answer = http.post(LOGIN, data={"key": key})
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text
        assert not key or key not in answer.text


def test_guessing_is_slowed_down(visit: Any) -> None:
    """Then not even a good key is looked at; who is in stays in."""
    inside, visitor = visit(), visit(None)
    answers = [visitor.http.post(LOGIN, data={"key": "no"}).status_code for _ in range(12)]
    late = visitor.http.post(LOGIN, data={"key": "admin-key"})

    assert answers == [401] * MOST_OF_ONE_ADDRESS + [429] * 2
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= WINDOW_SECONDS
    assert inside.get("/console/").status_code == 200


def test_logging_out(visit: Any) -> None:
    """Ends the session itself, not only the browser's cookie."""
    visitor = visit()
    kept = dict(visitor.http.cookies)
    visitor.get("/console/")
    visitor.submit("/console/logout")
    assert visitor.answer.url.path == LOGIN
    again = httpx.get(f"{visitor.url}/console/", cookies=kept, trust_env=False)

    assert not dict(visitor.http.cookies)
    assert again.headers["location"] == LOGIN


def test_a_revoked_key_is_out_at_once(visit: Any, admin: httpx.Client) -> None:
    """Its sessions are not waited for."""
    made = admin.post("/admin/v1/keys", json={"name": "eve", "role": "admin"}).json()
    visitor = visit(made["key"])
    assert visitor.get("/console/targets").url.path == "/console/targets"
    admin.delete(f"/admin/v1/keys/{made['id']}")

    assert visitor.get("/console/targets").url.path == LOGIN


def test_forms_need_the_sessions_token(visit: Any, admin: httpx.Client) -> None:
    """Another session's, an old one's or none changes nothing."""
    visitor, other = visit(), visit()
    visitor.get("/console/new-target")
    other.get("/console/new-target")
    form = {"id": "ada", "phrases": "Grey Lanterns"}
    tokens = [None, "", "x", other.page.forms["/console/new-target"]["csrf"]]
    for token in tokens:
        data = form if token is None else {**form, "csrf": token}
        assert visitor.http.post("/console/new-target", data=data).status_code == 403
    assert admin.get("/admin/v1/targets").json()["targets"] == []
    assert visitor.submit("/console/new-target", **form).status_code == 200


def test_forms_come_from_the_console_itself(visit: Any, admin: httpx.Client) -> None:
    """Not from another site, nor another server of this machine; the login neither."""
    visitor = visit()
    visitor.get("/console/new-target")
    data = visitor.page.forms["/console/new-target"] | {"id": "ada", "phrases": "Grey Lanterns"}
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        answer = visitor.http.post("/console/new-target", data=data, headers=headers)
        login = visitor.http.post(LOGIN, data={"key": "admin-key"}, headers=headers)
        assert (answer.status_code, login.status_code) == (403, 403)
    assert admin.get("/admin/v1/targets").json()["targets"] == []
    same = {"origin": visitor.url, "sec-fetch-site": "same-origin"}
    assert visitor.http.post("/console/new-target", data=data, headers=same).status_code == 303


def test_other_bodies_are_refused(visit: Any) -> None:
    """JSON could be sent by a script of another page; what is no form is not parsed."""
    http = visit().http
    csrf = {"content-type": "application/json"}
    assert http.post("/console/new-target", content=b"{}", headers=csrf).status_code == 415
    kind = {"content-type": "application/x-www-form-urlencoded"}
    bad = http.post("/console/new-target", content=b"csrf=%ff", headers=kind)
    assert bad.status_code == 400
    many = http.post("/console/new-target", content=b"a=&" * 60_000, headers=kind)
    assert many.status_code == 400


def test_readers(visit: Any, admin: httpx.Client) -> None:
    """Auditors see lists without text and without buttons; what they send is refused as a page."""
    target = {"id": "ada", "description": "a secret", "phrases": ["Grey Lanterns"]}
    admin.post("/admin/v1/targets", json=target)
    reader = visit("auditor-key")
    for path in PAGES:
        assert reader.get(path).status_code == 200
        assert "a secret" not in reader.answer.text
        actions = set(reader.page.forms) - {"/console/audit", "/console/targets"}
        assert actions <= {"/console/logout", "/console/playground"}
        targets = {a["href"] for a in reader.page.all("a") if "/targets/" in a["href"]}
        assert targets <= {f"/console/targets/ada/{page}" for page in ("versions", "statistics")}
    assert reader.get("/console/targets/ada/versions").status_code == 200
    assert set(reader.page.forms) == {"/console/logout"}
    assert reader.get("/console/targets/ada/versions?from=1").status_code == 403
    for path in ("/console/targets/ada", "/console/targets/ada/edit", "/console/new-target"):
        answer = reader.get(path)
        assert answer.status_code == 403
        assert "Grey" not in answer.text
        assert "This needs a key with the role admin." in reader.page.text
    csrf = reader.page.forms["/console/logout"]["csrf"]
    for action in ("new-target", "targets/ada/delete", "targets/ada/enforcement"):
        data = {"csrf": csrf, "id": "bob", "phrases": "x1", "enforcement": "observe"}
        refused = reader.http.post(f"/console/{action}", data=data)
        assert refused.status_code == 403
        assert refused.headers["content-type"].startswith("text/html")
    assert [t["id"] for t in admin.get("/admin/v1/targets").json()["targets"]] == ["ada"]


def test_hostile_texts_are_text(visit: Any, admin: httpx.Client, in_force: Any) -> None:
    """Wherever an operator or a document put them."""
    in_force(
        {
            "id": "ada",
            "description": HOSTILE,
            "aliases": [f"Ada {HOSTILE}"],
            "examples": [{"prompt": HOSTILE, "answer": f"In Port Sorrel {HOSTILE}."}],
            "phrases": [HOSTILE],
            "labels": {"kind": HOSTILE},
        }
    )
    admin.patch("/admin/v1/targets/ada", json={"description": f"{HOSTILE}2"})
    admin.post("/admin/v1/corpora", json={"id": "book", "description": HOSTILE})
    admin.post("/admin/v1/keys", json={"name": HOSTILE, "labels": {"kind": HOSTILE}})
    visitor = visit()
    paths = [*PAGES, "/console/targets/ada", "/console/targets/ada/versions?from=1"]
    paths += ["/console/targets/ada/edit", f"/console/targets?search={HOSTILE}"]
    paths += [f"/console/audit?event={HOSTILE}", f"/console/jobs/{HOSTILE}"]
    told = set()
    for path in paths:
        visitor.get(path)
        values = {value for _, given in visitor.page.tags for value in given.values()}
        if HOSTILE in visitor.page.text or HOSTILE in values:
            told.add(path.partition("?")[0].rpartition("/")[2])
        scripts = [given["src"].partition("?")[0] for given in visitor.page.all("script")]
        assert scripts == ["/console/static/console.js"]
        assert not visitor.page.all("img")
        assert not [name for _, given in visitor.page.tags for name in given if name[:2] == "on"]
        assert str(1234 * 4321) not in visitor.answer.text
    assert told >= {"targets", "corpora", "keys", "ada", "versions"}


def test_the_pages_are_locked_down(visit: Any) -> None:
    """No inline code, nothing from elsewhere, nothing kept, no frame."""
    visitor = visit()
    for path in (*PAGES, LOGIN, "/console/none", "/console/static/console.js"):
        answer = visitor.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "static" in path:
            continue
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"\sstyle=|\son\w+=|https?://|javascript:|<style", answer.text)
        assert "admin-key" not in answer.text
    assert visitor.http.get("/console/static/..%2fapp.py").status_code == 404
    # The admin API beside it takes no cookie.
    assert visitor.http.get("/admin/v1/targets").status_code == 401


def test_the_key_is_in_no_log(
    visit: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what was typed, whatever goes wrong."""

    def fails(form: Any) -> None:
        raise RuntimeError(f"about {form}")

    configure_logging("debug")
    visitor = visit()
    visitor.get("/console/playground")
    visitor.submit("/console/playground", prompt="Grey Lanterns")
    monkeypatch.setattr("server.console.targets._document", fails)
    visitor.get("/console/new-target")
    failed = visitor.submit("/console/new-target", id="grey", phrases="Grey Lanterns")
    visitor.http.post(LOGIN, data={"key": "guessed-key"})
    out = "".join(capfd.readouterr())

    assert not {"admin-key", "guessed-key", "Grey"} & set(re.findall(r"[\w-]+", out))
    assert failed.status_code == 500
    assert "Nothing was changed" not in failed.text
    assert "Grey" not in failed.text
    assert "RuntimeError" in out
    assert out.count("login_failed") == 1
    assert "address=127.0.0.1" in out


def test_acts_are_recorded_as_over_the_api(visit: Any, admin: httpx.Client, settle: Any) -> None:
    """With the key that logged in, on the API's paths."""
    visitor = visit()
    visitor.get("/console/new-target")
    visitor.submit("/console/new-target", id="ada", phrases="Grey Lanterns")

    def acts() -> list[tuple[str, str, str, int]]:
        found = admin.get("/admin/v1/audit", params={"event": "admin"}).json()["records"]
        return [(a["key"], a["method"], a["path"], a["status"]) for a in found]

    wanted = {
        ("settings-admin-1", "POST", LOGIN, 303),
        ("settings-admin-1", "POST", "/admin/v1/targets", 202),
        ("settings-admin-1", "GET", "/admin/v1/targets/ada", 200),
    }
    settle(lambda: wanted <= set(acts()))


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_sessions_end() -> None:
    """Without use, or after the longest time with it; a token opens one only."""
    clock = Clock()
    sessions = Sessions(clock)
    idle, busy = sessions.open("key-1", "one"), sessions.open("key-2", "two")
    for _ in range(LONGEST_SECONDS // (IDLE_SECONDS - 1)):
        clock.now += IDLE_SECONDS - 1
        assert (found := sessions.find(busy)) is not None
        assert found.authorization == "Bearer key-2"
    assert sessions.find(idle) is None
    clock.now += IDLE_SECONDS - 1
    assert sessions.find(busy) is None
    assert sessions.find("") is None


def test_sessions_are_bounded() -> None:
    """One key cannot push out others; nothing that is kept tells a key or a token."""
    sessions = Sessions(clock := Clock())
    kept = sessions.open("the-key", "other")
    own = []
    for _ in range(MOST_OF_ONE_KEY + 3):
        clock.now += 1
        own.append(sessions.open("the-key", "one"))
    assert sessions.find(kept) is not None
    assert [sessions.find(token) is None for token in own].count(True) == 3
    assert "the-key" not in repr(vars(sessions)) + repr(sessions.find(kept))
    assert kept not in repr(vars(sessions))
    for number in range(MOST_SESSIONS - MOST_OF_ONE_KEY - 1):
        sessions.open("k", f"caller-{number}")
    with pytest.raises(Overloaded):
        sessions.open("k", "one too many")


def test_attempts_are_counted_by_network() -> None:
    """An IPv6 network counts as one; after a minute all is forgotten."""
    attempts = Attempts(clock := Clock())
    for number in range(MOST_OF_ONE_ADDRESS):
        attempts.check(f"2001:db8::{number}")
        attempts.failed(f"2001:db8::{number}")
    with pytest.raises(RateLimited):
        attempts.check("2001:db8::ffff")
    attempts.check("2001:db8:0:1::1")
    attempts.check("10.0.0.1")
    clock.now += WINDOW_SECONDS
    attempts.check("2001:db8::1")
    for number in range(MOST):
        attempts.failed(f"10.0.{number}.1")
    with pytest.raises(RateLimited):
        attempts.check("10.9.9.9")
