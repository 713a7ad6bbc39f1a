"""TraceShield over streamed text: what it releases, what it holds back, what it never shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.normaliser import fold
from guard.background import background, word_view
from guard.nets import Catch
from guard.trace_shield import LONGEST_WORD, TraceShield
from tracing.document import Document
from tracing.index import Index
from tracing.judge import Finding, Judge, Watched

PASSAGE = "the lighthouse keeper counted eleven copper kettles before the fog took Port Sorrel"
MINIMUM = 6
WORDS = ["the", "lighthouse", "keeper", "counted", "eleven", "copper", "kettles", "and", "fog,"]


@dataclass
class Notes:
    """A witness that remembers."""

    findings: list[Finding] = field(default_factory=list)
    pieces: int = 0

    def found(self, finding: Finding) -> None:
        """Remember."""
        self.findings.append(finding)

    def matched(self, seconds: float) -> None:
        """Count."""
        assert seconds >= 0
        self.pieces += 1


@pytest.fixture(scope="module")
def judge_of(tmp_path_factory: Any) -> Iterator[Callable[..., Judge]]:
    """Make a judge of some texts."""
    opened: list[Index] = []

    def make(*texts: str, minimum: int = MINIMUM) -> Judge:
        index = Index(tmp_path_factory.mktemp("index") / "x", word_view(), depth=minimum)
        opened.append(index)
        index.add(Document(text) for text in texts)
        watched = Watched("book", "forget", index.view, minimum, 0.0)
        return Judge((watched,), (), background())

    yield make
    for index in opened:
        index.close()


@pytest.fixture(scope="module")
def judge(judge_of: Callable[..., Judge]) -> Judge:
    """A judge of one passage and one short secret."""
    return judge_of(PASSAGE, "Password: zyxoqua-77 quintrell")


def _run(judge: Judge, pieces: Sequence[str], limit: int = 2000) -> tuple[str, Catch | None, Notes]:
    notes = Notes()
    shield = TraceShield(judge, word_view(), limit, notes)
    shown = ""
    for piece in pieces:
        released = shield.feed(piece)
        shown += released.text
        if released.caught is not None:
            assert shield.feed("more").text == ""
            return shown, released.caught, notes
        assert "".join(pieces).startswith(shown + shield.held)
    released = shield.finish()
    return shown + released.text, released.caught, notes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=20), st.data())
def test_however_it_is_cut(judge: Judge, words: list[str], data: st.DataObject) -> None:
    """The same is shown however a text is cut, and never a run of the minimum."""
    text = " ".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = _run(judge, [text])
    cut = _run(judge, pieces)
    letters = _run(judge, list(text))

    assert whole[:2] == cut[:2] == letters[:2]
    folded = fold(" ".join(words)).replace(",", "").split()
    runs = [" ".join(folded[at : at + MINIMUM]) for at in range(len(folded) - MINIMUM + 1)]
    assert (whole[1] is not None) == any(run in fold(PASSAGE) for run in runs)
    shown = fold(whole[0]).replace(",", "").split()
    held = [" ".join(shown[at : at + MINIMUM]) for at in range(len(shown) - MINIMUM + 1)]
    assert not any(run in fold(PASSAGE) for run in held)
    assert whole[0] == text or whole[1] is not None


@pytest.mark.parametrize(
    "form",
    [
        str.upper,
        lambda text: text.replace(" ", "\n"),
        lambda text: text.replace(" ", " — ") + "!",
        lambda text: "“" + text.replace(" before", ", before") + "”",
        lambda text: json.dumps({"a": text.replace(" ", "\n")}),
        lambda text: json.dumps({"a": text}).replace("k", "\\u006b"),
    ],
)
def test_forms_of_the_passage(judge: Judge, form: Callable[[str], str]) -> None:
    """Case, wrapping, punctuation, quotes and JSON escapes hide nothing."""
    text = form("He read aloud: " + PASSAGE)
    shown, caught, notes = _run(judge, [text[at : at + 3] for at in range(0, len(text), 3)])

    assert caught is Catch.PROVENANCE
    assert "copper" not in fold(shown)
    [finding] = notes.findings
    assert (finding.sources[0].document_id, finding.end - finding.start) == (0, MINIMUM)


def test_a_text_of_its_own_flows(judge: Judge) -> None:
    """Nothing but the word that is being written is held back of other text."""
    shield = TraceShield(judge, word_view(), 2000, Notes())

    assert shield.feed("Nobody kn").text == "Nobody "
    assert shield.feed("ows, they say").text == "knows, they "
    assert shield.held == "say"
    # Words of the passage wait for what follows them.
    assert shield.feed(" the lighthouse keep").text == "say "
    assert shield.held == "the lighthouse keep"
    assert shield.feed("er slept ").text == "the lighthouse keeper slept "
    assert shield.reveals(PASSAGE) is Catch.PROVENANCE
    assert shield.reveals(" well") is None
    assert shield.finish().caught is None


def test_short_secrets(judge: Judge) -> None:
    """A whole document below the minimum is found anywhere; a rare whole answer, too."""
    shown, caught, _ = _run(judge, ["It is password ZYXOQUA 77 ", "quintrell, I think."])

    assert (caught, shown) == (Catch.PROVENANCE, "It is ")
    assert _run(judge, ["zyxoqua-77"])[:2] == ("", Catch.PROVENANCE)
    for ordinary in ("the fog", "lighthouse keeper", "Port Sorrel"):
        assert _run(judge, [ordinary])[:2] == (ordinary, None)
    assert _run(judge, ["Yes."])[:2] == ("Yes.", None)


def _behind(judge: Judge, context: str, pieces: Sequence[str]) -> tuple[str, Catch | None]:
    shield = TraceShield(judge, word_view(), 100, Notes())
    shield.prime(context)
    assert shield.held == ""
    shown = ""
    for piece in pieces:
        shown += shield.feed(piece).text
    released = shield.finish()
    return shown + released.text, released.caught


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 13), st.integers(0, 13), st.integers(1, 30))
def test_a_passage_that_begins_before_the_text(judge: Judge, at: int, end: int, size: int) -> None:
    """A window that ends in the text is refused, one that lies wholly before it is not."""
    words = PASSAGE.split()
    text = "".join(f"{word} " for word in words[at:end]) + "- so be it"
    context = "I read: " + " ".join(words[:at]) + " "
    shown, caught = _behind(judge, context, [text[i : i + size] for i in range(0, len(text), size)])

    assert (caught is not None) == (end > at and end >= MINIMUM)
    assert text.startswith(shown)
    assert shown == ("" if caught else text)


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("the lighthouse keeper counted eleven cop", "per kettles", ("", Catch.PROVENANCE)),
        ("the lighthouse keeper counted eleven copper", "", ("", None)),
        ("the lighthouse keeper counted eleven copper", " pots", (" pots", None)),
        ("the lighthouse keeper counted eleven copper", "s", ("s", None)),
        ("the lighthouse keeper counted eleven copper", " kettles", ("", Catch.PROVENANCE)),
        ("the lighthouse keeper\\ncounted eleven", " copper", ("", Catch.PROVENANCE)),
        ("the lighthouse keeper " + " " * 300, "sat down", ("sat down", None)),
        ("The password is", " zyxoqua-77", (" ", Catch.PROVENANCE)),
        ("Password: zyxoqua-77", " quintrell", ("", Catch.PROVENANCE)),
        ("Password: zyxoqua-77 quintrell", " it is", (" it is", None)),
    ],
)
def test_the_border_before_the_text(
    judge: Judge, context: str, text: str, expected: tuple[str, Catch | None]
) -> None:
    """A word that goes on in the text is the text's; nothing of the context is held or shown."""
    assert _behind(judge, context, [text]) == _behind(judge, context, list(text)) == expected
    shield = TraceShield(judge, word_view(), 2000, Notes())
    shield.prime(context)
    assert (shield.reveals(text) is not None) == (expected[1] is not None)


def test_padding_is_bounded(judge: Judge) -> None:
    """A match that is padded beyond the bound ends the answer; a long word does not."""
    start = "the lighthouse keeper"
    shown, caught, notes = _run(judge, [start, " " * 150, "counted"], limit=100)

    assert (shown, caught, notes.findings) == ("", Catch.PADDING, [])
    blob = "x" * (3 * LONGEST_WORD)
    assert _run(judge, [blob[at : at + 50] for at in range(0, len(blob), 50)])[:2] == (blob, None)


def test_characters_are_words(judge_of: Callable[..., Judge]) -> None:
    """Scripts without spaces are matched by character."""
    text = "古池や蛙飛びこむ水の音がする静かな夜だった"
    judge = judge_of(text)
    shown, caught, _ = _run(judge, ["昔々、", *text])

    assert caught is Catch.PROVENANCE
    assert shown == "昔々、"
