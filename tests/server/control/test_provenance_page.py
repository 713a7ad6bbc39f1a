"""The attribution page, and the record of blocks."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.provenance.audit import AuditLog

PAGE = "/admin/provenance"
SECRET = "the lighthouse keeper counted eleven copper kettles before the fog took Port Sorrel"
Settle = Callable[[Callable[[], bool]], None]


class Marks(HTMLParser):
    """The marked texts of a page by class, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.marks: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        if tag == "mark":
            self._open = dict(attrs).get("class") or ""

    def handle_data(self, data: str) -> None:
        """Note marked text."""
        if self._open is not None:
            self.marks.append((self._open, data))
            self._open = None


@pytest.fixture
def book(admin: httpx.Client, settle: Settle) -> None:
    """A corpus with one document, whose source has to be escaped."""
    admin.post("/admin/v1/corpora", json={"id": "book"})
    document = {"text": f"Once, {SECRET}; so <b>they</b> said.", "source": "<a> & b"}
    added = admin.post("/admin/v1/corpora/book/documents", json={"documents": [document]})
    job = f"/admin/v1/jobs/{added.json()['job']['id']}"
    settle(lambda: admin.get(job).json()["state"] == "done")


def _ask(admin: httpx.Client, text: str, key: str) -> httpx.Response:
    bare = {"authorization": ""}
    return admin.post(PAGE, data={"text": text, "key": key}, headers=bare)


def test_the_page_highlights_and_shows_sources(admin: httpx.Client, book: None) -> None:
    """Matches are marked in the text and in the passage; nothing is taken for markup."""
    said = f'<script>alert("x")</script> {SECRET.upper()} the end'
    answer = _ask(admin, said, "admin-key")
    read = Marks(answer.text)

    assert answer.status_code == 200
    assert ("refused", SECRET.upper()) in read.marks
    assert ("", SECRET) in read.marks
    assert "&lt;a&gt; &amp; b" in answer.text
    assert "&lt;b&gt;they" in answer.text
    assert not {"script", "b", "a"} & read.tags
    assert "admin-key" not in answer.text


def test_the_page_needs_a_key(admin: httpx.Client, book: None) -> None:
    """Without a key nothing is told; auditors see matches without passages."""
    stranger = _ask(admin, SECRET, "no")
    client = _ask(admin, SECRET, "client-key")
    auditor = _ask(admin, SECRET, "auditor-key")

    assert (stranger.status_code, client.status_code) == (401, 403)
    assert "matches" not in stranger.text + client.text
    assert auditor.status_code == 200
    assert "1 refused" in auditor.text
    assert "so &lt;b&gt;" not in auditor.text
    assert "&amp; b" not in auditor.text


def test_the_page_is_locked_down(admin: httpx.Client) -> None:
    """No scripts, nothing from elsewhere, nothing kept, no key of ours in it."""
    bare = httpx.get(str(admin.base_url) + PAGE, trust_env=False)
    style = httpx.get(str(admin.base_url) + "/admin/provenance.css", trust_env=False)

    policy = bare.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert bare.headers["cache-control"] == "no-store"
    assert not {"script", "style"} & Marks(bare.text).tags
    assert not re.search(r"\sstyle=|https?://", bare.text)
    assert 'type="password"' in bare.text
    assert style.headers["content-type"].startswith("text/css")
    assert "mark" in style.text


def test_a_long_form_is_refused(admin: httpx.Client) -> None:
    """The form has the bound of other bodies."""
    assert _ask(admin, "x" * 9_000_000, "admin-key").status_code == 413
    assert _ask(admin, "x" * 1_000_001, "admin-key").status_code == 422


def test_the_record_is_a_ring(tmp_path: Path) -> None:
    """Two files at the most, owner-only, newest first; a torn line is skipped."""
    log = AuditLog(tmp_path / "audit", max_bytes=1000)
    for number in range(100):
        log.append({"id": str(number), "words": 8})
    newest: list[dict[str, Any]] = log.newest(None, 1000)
    with (tmp_path / "audit" / "blocks.jsonl").open("ab") as file:
        file.write(b'{"id": "torn')

    ids = [int(record["id"]) for record in newest]
    assert ids == list(range(99, 99 - len(ids), -1))
    assert 30 < len(ids) < 99
    assert log.newest(None, 1000) == newest
    assert [record["id"] for record in log.newest("99", 2)] == ["98", "97"]
    files = [path for path in (tmp_path / "audit").iterdir() if path.name != "lock"]
    assert len(files) == 2
    assert all(path.stat().st_size < 1100 for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
