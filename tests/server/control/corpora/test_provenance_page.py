"""The attribution page, and the record of blocks."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.provenance.audit import AuditLog, recorded_id
from server.provenance.page import render_page
from server.provenance.schemas import AttributeOut, SpanOut
from tests.server.control.corpora.passages import SECRET

PAGE = "/admin/provenance"
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
def book(admin: httpx.Client, done: Callable[[httpx.Response], dict[str, Any]]) -> None:
    """A corpus with one document, whose source has to be escaped."""
    admin.post("/admin/v1/corpora", json={"id": "book"})
    document = {"text": f"Once, {SECRET}; so <b>they</b> said.", "source": "<a> & b"}
    added = admin.post("/admin/v1/corpora/book/documents", json={"documents": [document]})
    assert done(added)["state"] == "done"


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


def test_who_used_the_page_is_recorded(admin: httpx.Client, book: None, settle: Settle) -> None:
    """It shows a corpus's text as the API does, whose readers are recorded by their header."""

    def acts() -> list[tuple[str, str, int]]:
        found = admin.get("/admin/v1/audit", params={"event": "admin"}).json()["records"]
        return [(a["key"], a["path"], a["status"]) for a in found]

    _ask(admin, SECRET, "no")
    _ask(admin, SECRET, "admin-key")
    settle(lambda: ("settings-admin-1", PAGE, 200) in acts())
    assert [path for _, path, _ in acts()].count(PAGE) == 1


def test_the_page_needs_a_key(admin: httpx.Client, book: None) -> None:
    """An admin's: matches alone would tell a document word by word."""
    stranger = _ask(admin, SECRET, "no")
    client = _ask(admin, SECRET, "client-key")
    auditor = _ask(admin, SECRET, "auditor-key")

    assert [a.status_code for a in (stranger, client, auditor)] == [401, 403, 403]
    assert not {"h2", "mark", "section"} & Marks(stranger.text + client.text + auditor.text).tags


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
    """Before it is parsed, and with a page that says so."""
    refused = _ask(admin, "x" * 2_200_000, "no")

    assert refused.status_code == 413
    assert refused.headers["cache-control"] == "no-store"
    assert 'role="alert">The body is longer' in refused.text
    assert _ask(admin, "x" * 1_000_001, "admin-key").status_code == 422


def _span(start: int, end: int, *, refused: bool = False) -> SpanOut:
    place = {"corpus": "book", "start": start, "end": end, "words": 1, "count": 1}
    return SpanOut(**place, nats=1.0, raw=1.0, refused=refused, sources=[])


@given(
    st.text("ab<&", max_size=12),
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(1, 12), st.booleans()).filter(
            lambda s: s[0] < s[1]
        ),
        max_size=6,
    ),
)
def test_every_character_is_marked_by_its_matches(
    text: str, spans: list[tuple[int, int, bool]]
) -> None:
    """As if each were looked up alone; the text is what it was."""
    spans = [s for s in spans if s[1] <= len(text)]
    found = AttributeOut(spans=[_span(a, b, refused=r) for a, b, r in spans], words=1)
    page = render_page(text, found).split('<p class="said">')[1].split("</p>")[0]
    told = [
        (char, kind and "refused" in kind, [int(n) for n in numbers.split()])
        for kind, numbers, piece in re.findall(
            r'(?:<mark class="(\w+)" title="match ([\d ]+)">)?([^<]+)(?:</mark>)?', page
        )
        for char in unescape(piece)
    ]

    here = [[n for n, (a, b, _) in enumerate(spans, 1) if a <= i < b] for i in range(len(text))]
    assert [char for char, _, _ in told] == list(text)
    assert [numbers for _, _, numbers in told] == here
    assert [bool(r) for _, r, _ in told] == [any(spans[n - 1][2] for n in ns) for ns in here]


def test_ever_so_many_matches_are_bounded() -> None:
    """In time and in what is shown; those that were refused are."""
    spans = [_span(n, n + 5000, refused=n == 29_999) for n in range(30_000)]
    begun = time.process_time()
    page = render_page("x" * 35_000, AttributeOut(spans=spans, words=35_000))

    assert time.process_time() - begun < 20
    assert "30000 matches, 1 refused" in page
    assert "29800 more are not shown" in page
    assert page.count("<section") == 200
    assert page.count(", refused</h3>") == 1


@pytest.mark.parametrize(
    ("request_id", "kept"),
    [
        ("", ""),
        ("chatcmpl-0aF_9.b", "chatcmpl-0aF_9.b"),
        ("r" * 128, "r" * 128),
        ("r" * 129, None),
        ("r-1\n", None),
        (SECRET, None),
        ("id-\xe9", None),
        ("sha256:0123456789abcdef", None),
    ],
)
def test_a_record_keeps_no_text_for_an_id(request_id: str, kept: str | None) -> None:
    """What does not look like an id is hashed."""
    digest = hashlib.sha256(request_id.encode("latin-1")).hexdigest()

    assert recorded_id(request_id) == (f"sha256:{digest[:16]}" if kept is None else kept)


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
