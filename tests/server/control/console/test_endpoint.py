"""An endpoint on another machine: it is sent a client's key, and no other."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.auth import KeyRing, Role
from server.console.endpoint import GuardedEndpoint
from server.errors import KeysUnreadable

PATH = "/console/playground"
ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/models": {"data": [{"id": "demo"}]},
    "/v1/checks": {
        "verdict": "allow",
        "would": None,
        "generation": 7,
        "digest": "",
        "detections": [],
    },
    "/v1/chat/completions": {
        "choices": [{"message": {"content": "Twelve kettles."}, "finish_reason": "stop"}]
    },
}


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """A machine that notes what it is sent."""
    sent: list[tuple[str, str | None]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sent.append((handler.path, handler.headers["authorization"]))
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        body = json.dumps(ANSWERS[handler.path]).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    methods = {"do_GET": answer, "do_POST": answer, "log_message": lambda *_: None}
    handler = type("Handler", (BaseHTTPRequestHandler,), methods)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", sent=sent)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def endpoint_url(elsewhere: Any) -> str | None:
    """That machine's."""
    url: str = elsewhere.url
    return url


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as another machine; a test has only this one."""
    monkeypatch.setattr("server.console.endpoint.is_loopback", lambda _host: False)


def test_over_loopback_the_own_key_is_sent(visit: Any, elsewhere: Any) -> None:
    """And no other is asked for."""
    visitor = visit()
    visitor.get(PATH)

    assert "client_key" not in visitor.page.forms[PATH]
    assert visitor.submit(PATH, prompt="kettles?", client_key="typed").status_code == 200
    assert elsewhere.sent == [("/v1/checks", "Bearer admin-key")]
    assert "1. Decision" in visitor.page.text


@pytest.mark.usefixtures("far")
def test_another_machine_is_sent_a_clients_key(visit: Any, elsewhere: Any) -> None:
    """The model is asked with it; no decision is, nor is anything claimed that it would tell."""
    visitor = visit()
    visitor.get(PATH)
    answer = visitor.submit(PATH, prompt="kettles?", generate="yes", client_key=" a-clients-key ")

    assert answer.status_code == 200
    assert elsewhere.sent == [
        ("/v1/models", "Bearer a-clients-key"),
        ("/v1/chat/completions", "Bearer a-clients-key"),
    ]
    assert "Twelve kettles." in visitor.page.text
    assert "No forbidden phrase is in it." not in visitor.page.text
    assert "there is no decision" in visitor.page.text
    assert "1. Decision" not in visitor.page.text
    assert "a-clients-key" not in answer.text
    (field,) = (each for each in visitor.page.all("input") if each.get("name") == "client_key")
    assert field["type"] == "password"


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("role", ["admin", "auditor", "node"])
def test_no_other_key_is_sent(visit: Any, admin: httpx.Client, elsewhere: Any, role: str) -> None:
    """Neither of the settings nor made by an operator, whoever types it, nor one's own."""
    made = admin.post("/admin/v1/keys", json={"name": "eve", "role": role}).json()["key"]
    visitor = visit()
    for typed in ("", "admin-key", "auditor-key", made, "clé", "a\nb"):
        visitor.get(PATH)
        answer = visitor.submit(PATH, prompt="kettles?", generate="yes", client_key=typed)
        assert answer.status_code in (403, 422), typed
        assert "Answer: " in visitor.page.text
        assert typed not in answer.text or not typed
    assert elsewhere.sent == []


@pytest.mark.usefixtures("far")
def test_a_made_clients_key_is_sent(visit: Any, admin: httpx.Client, elsewhere: Any) -> None:
    """Which the keyring knows as that."""
    made = admin.post("/admin/v1/keys", json={"name": "eve", "role": "client"}).json()["key"]
    visitor = visit()
    visitor.get(PATH)
    visitor.submit(PATH, prompt="kettles?", generate="yes", client_key=made)

    assert {key for _, key in elsewhere.sent} == {f"Bearer {made}"}


@pytest.mark.usefixtures("far")
def test_auditors_ask_no_other_machine(visit: Any, elsewhere: Any) -> None:
    """Of what they may see nothing is left; a form of their own making changes nothing."""
    reader = visit("auditor-key")
    reader.get(PATH)
    assert PATH not in reader.page.forms
    assert "on another machine" in reader.page.text
    csrf = reader.page.forms["/console/logout"]["csrf"]
    form = {"csrf": csrf, "prompt": "kettles?", "generate": "yes", "client_key": "a-clients-key"}

    assert reader.http.post(PATH, data=form).status_code == 200
    assert elsewhere.sent == []


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.1.2.3:8000", True),
        ("http://[::1]:8000", True),
        ("http://LOCALHOST:8000", True),
        ("https://127.0.0.1", True),
        ("http://lethegate.lethegate:8000", False),
        ("https://models.example", False),
        ("http://10.0.0.5:8000", False),
        ("http://localhost.example:8000", False),
        ("http://0.0.0.0:8000", False),
    ],
)
def test_what_is_here(url: str, here: bool) -> None:
    """Loopback addresses; TLS does not make another machine this one."""
    assert GuardedEndpoint(url, KeyRing({}), "Bearer admin-key", "").is_here is here


def test_while_nobody_can_tell_whose_key_it_is_it_stays_here() -> None:
    """A list of keys that cannot be read could say that it is an admin's."""
    keyring = KeyRing({"admin-key": Role.ADMIN}, lambda: None)
    endpoint = GuardedEndpoint("http://models.example", keyring, "Bearer admin-key", "typed")

    with pytest.raises(KeysUnreadable):
        asyncio.run(endpoint.ask("GET", "/v1/models"))
    assert "key" not in repr(endpoint)
