"""A console beside a real admin API, and somebody who uses it as a browser without scripts does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from detectors.detection import Detection, Layer, Strength
from detectors.targets import Phrase
from guard.decision import Decision, Verdict
from guard.follower import Follower
from server.auth import Role

LOGIN = "/console/login"


class Read(HTMLParser):
    """A page: its tags, its text, and its forms with the values that they hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.forms: dict[str, dict[str, str]] = {}
        self._form: dict[str, str] | None = None
        self._area: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, and what it adds to a form."""
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "form":
            self._form = self.forms.setdefault(given["action"] or "", {})
        name = given.get("name")
        if self._form is None or name is None:
            return
        if tag == "input" and given.get("type") not in ("checkbox", "submit"):
            self._form[name] = given.get("value") or ""
        if tag == "textarea":
            self._area, self._form[name] = name, ""

    def handle_endtag(self, tag: str) -> None:
        """Note where a form or its text ends."""
        self._form = None if tag == "form" else self._form
        self._area = None if tag == "textarea" else self._area

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data
        if self._form is not None and self._area is not None:
            self._form[self._area] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


class Visitor:
    """Somebody with a browser: keeps cookies, sends forms with what they hold."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.answer: httpx.Response | None = None
        self.page = Read("")

    def log_in(self, key: str) -> httpx.Response:
        """Log in with a key."""
        return self._read(self.http.post(LOGIN, data={"key": key}, follow_redirects=True))

    def get(self, path: str) -> httpx.Response:
        """Look at a page."""
        return self._read(self.http.get(path, follow_redirects=True))

    def submit(self, action: str, /, **fields: Any) -> httpx.Response:
        """Send a form of the page that was read last; `fields` replace what it holds."""
        data = {**self.page.forms[action], **fields}
        return self._read(self.http.post(action, data=data, follow_redirects=True))

    def close(self) -> None:
        """Close the browser."""
        self.http.close()

    def _read(self, answer: httpx.Response) -> httpx.Response:
        if answer.headers["content-type"].startswith("text/html"):
            self.page = Read(answer.text)
            # A browser goes where the form leads, relative to the page.
            self.page.forms = {urljoin("/", a): f for a, f in self.page.forms.items()}
        self.answer = answer
        return answer


@pytest.fixture
def endpoint_url() -> str | None:
    """There is a console, and no endpoint."""
    return "http://127.0.0.1:9"


@pytest.fixture
def gateway(start_stack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway before a fake engine, which finds `ada` in prompts with "Ada" and "Novak".

    The first is strong evidence and near her first example, the second weak and near the other;
    "refuse" is refused.
    """
    # Where there is a client's key, everybody needs one.
    keys = {"client-key": Role.CLIENT, "auditor-key": Role.AUDITOR, "admin-key": Role.ADMIN}
    stack = start_stack(keys=keys)
    stack.guard.verdicts = {
        "refuse": Verdict.REFUSE,
        "Ada": Verdict.STEER,
        "Novak": Verdict.STEER,
    }
    stack.guard.forbidden = [Phrase("Port Sorrel")]
    decide = stack.guard.screen

    async def with_reasons(texts: list[str], *rest: Any, **options: Any) -> Decision:
        decision: Decision = await decide(texts, *rest, **options)
        if decision.verdict is Verdict.ALLOW:
            return decision
        strong = any("Ada" in text for text in texts)
        strength = Strength.STRONG if strong else Strength.WEAK
        found = Detection("ada", Layer.SIMILARITY, strength, 0.91234, 0.8, (0 if strong else 1,))
        return replace(decision, detections=(found,))

    monkeypatch.setattr(stack.guard, "screen", with_reasons)
    return stack


@pytest.fixture
def visit(admin: httpx.Client) -> Iterator[Callable[[str | None], Visitor]]:
    """Opens browsers, logged in with a key or not."""
    opened: list[Visitor] = []

    def make(key: str | None = "admin-key") -> Visitor:
        opened.append(visitor := Visitor(str(admin.base_url)))
        if key is not None:
            assert visitor.log_in(key).status_code == 200
        return visitor

    yield make
    for visitor in opened:
        visitor.close()


@pytest.fixture
def in_force(
    admin: httpx.Client, follow: Callable[..., Follower], settle: Callable[..., None]
) -> Callable[..., None]:
    """Registers targets and waits until a follower applies them; the empty policy comes first."""
    follow()
    settle(lambda: admin.get("/readyz").status_code == 200)

    def register(*targets: dict[str, Any]) -> None:
        for target in targets:
            assert admin.post("/admin/v1/targets", json=target).status_code == 202
        for target in targets:
            path = f"/admin/v1/targets/{target['id']}"
            settle(lambda path=path: admin.get(path).json()["status"] == "active")

    return register
