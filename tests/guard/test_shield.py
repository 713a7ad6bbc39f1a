"""The output shield: nothing forbidden gets out, and chunking does not matter."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield

# Few letters, so that random texts hit random phrases often.
_LETTERS = "ab \u200b\u0301\u0430A-"
_JSON_PARTS = ["a", "b", " ", "\\n", "\\u0061", "\\u0062", "\\\\", '\\"']
_PHRASES = st.lists(
    st.builds(Phrase, st.text("ab -", min_size=1, max_size=5), st.booleans()),
    min_size=1,
    max_size=4,
)


def _shield(*phrases: str, whole_word: bool = True, holdback_chars: int = 2000) -> OutputShield:
    return OutputShield([PhraseMatcher(Phrase(p, whole_word) for p in phrases)], holdback_chars)


def _run(guard: OutputShield, chunks: list[str]) -> tuple[str, bool]:
    """All that gets out of a stream, and whether it was blocked."""
    out = "".join(guard.feed(chunk).text for chunk in chunks)
    last = guard.finish()
    return out + last.text, last.caught is not None


def _chunked(text: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


@settings(max_examples=200, deadline=None)
@given(_PHRASES, st.text(_LETTERS, max_size=24), st.lists(st.integers(0, 24), max_size=8))
def test_streamed_equals_unstreamed_and_holds_no_phrase(
    phrases: list[Phrase], text: str, cuts: list[int]
) -> None:
    """However a text is cut into chunks, the same comes out, and no phrase is in it."""
    matchers = [PhraseMatcher(phrases[:2]), PhraseMatcher(phrases[2:])]
    whole, blocked = _run(OutputShield(matchers), [text])
    streamed = _run(OutputShield(matchers), _chunked(text, cuts))

    assert streamed == (whole, blocked)
    assert not any(matcher.find(whole) for matcher in matchers)
    assert text.startswith(whole)
    assert blocked or whole == text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["a", "b", " ", "\\n", "\\u0061", "\\u0062", "\\\\", '\\"']), max_size=12
    ),
    st.lists(st.integers(0, 60), max_size=12),
)
def test_json_escapes_do_not_hide_a_phrase(parts: list[str], cuts: list[int]) -> None:
    """The decoded JSON of what gets out holds no phrase, whatever was escaped and cut."""
    phrases = PhraseMatcher([Phrase("ab"), Phrase("bb", whole_word=False)])
    text = "".join(parts)
    out, blocked = _run(OutputShield([phrases]), _chunked(text, cuts))

    assert phrases.find(json.loads(f'"{out}"')) is None
    assert blocked or out == text
    assert (out, blocked) == _run(OutputShield([phrases]), [text])


def test_text_is_released_as_soon_as_it_is_certain() -> None:
    """Only an unfinished occurrence waits."""
    guard = _shield("John Smith")

    assert guard.feed("I met J").text == "I met "
    assert guard.feed("ohn ").text == ""
    assert guard.feed("Doe").text == "John Doe"


def test_a_block_is_final() -> None:
    """After a block nothing more gets out."""
    guard = _shield("John Smith")
    blocked = guard.feed("It was John Smith, a baker")

    assert (blocked.text, blocked.caught) == ("It was ", Catch.PHRASE)
    assert guard.feed("and more").text == ""
    assert guard.finish().text == ""


def test_a_whole_word_waits_for_its_border() -> None:
    """A word that goes on is another word; at the end of the text it is the phrase."""
    assert _run(_shield("John"), ["John", "ny"]) == ("Johnny", False)
    assert _run(_shield("John"), ["John", " "]) == ("", True)
    assert _run(_shield("John"), ["John"]) == ("", True)


def test_a_cut_makes_no_new_whole_word() -> None:
    """A cut is a word border, so it may not show a phrase that the full text did not hold."""
    guard = OutputShield([PhraseMatcher([Phrase("John"), Phrase("ny bad", whole_word=False)])])

    assert _run(guard, ["oh Johnn", "y b", "ad"]) == ("oh ", True)


def test_the_border_before_the_window_is_remembered() -> None:
    """Released text still decides whether a word begins."""
    assert _run(_shield("john"), ["aj", "ohn "]) == ("ajohn ", False)
    assert _run(_shield("john"), ["a\u200b", "john "]) == ("a\u200bjohn ", False)


@pytest.mark.parametrize("text", ['{"n": "J\\u006fhn Smith"}', '{"n": "John\\nSmith"}'])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_escaped_names_in_tool_arguments_are_blocked(text: str, size: int) -> None:
    """JSON escapes are decoded, and a chunk border inside an escape hides nothing."""
    chunks = [text[i : i + size] for i in range(0, len(text), size)]

    assert _run(_shield("John Smith"), chunks) == ('{"n": "', True)


def test_escaped_surrogate_pairs_are_one_character() -> None:
    """A mathematical bold J, written as two escapes, still spells the name."""
    text = "\\ud835\\udc09ohn Smith"

    assert _run(_shield("John Smith"), list(text)) == ("", True)


def test_padding_without_end_is_blocked() -> None:
    """A phrase that is padded beyond the hold-back window is treated as one."""
    guard = _shield("John Smith", holdback_chars=64)

    assert _run(guard, ["ok John ", *["\u200b" * 10] * 10, "Jones"]) == ("ok ", True)


def test_what_a_stop_string_cut_off_is_seen() -> None:
    """Text plus the stop string that ended it is judged, without being released."""
    guard = _shield("John Smith")
    guard.feed("It was John S")

    assert guard.reveals("mith")
    assert not guard.reveals("tone")


def _behind(guard: OutputShield, context: str, chunks: list[str]) -> tuple[str, bool]:
    guard.prime(context)
    assert guard.held == ""
    return _run(guard, chunks)


@settings(max_examples=200, deadline=None)
@given(
    _PHRASES,
    st.text("ab \u200b-", max_size=10),
    st.text("ab \u200b-", max_size=14),
    st.lists(st.integers(0, 14), max_size=6),
)
def test_a_phrase_that_begins_before_the_text(
    phrases: list[Phrase], context: str, text: str, cuts: list[int]
) -> None:
    """What ends in the text is caught however it is cut; what lies before it is not."""
    matchers = [PhraseMatcher(phrases)]
    whole, blocked = _behind(OutputShield(matchers), context, [text])
    streamed = _behind(OutputShield(matchers), context, _chunked(text, cuts))

    assert streamed == (whole, blocked)
    assert blocked or whole == text
    # Behind the context there is no occurrence that the shown text's last characters complete.
    assert _behind(OutputShield(matchers), context, [whole]) == (whole, False)


@pytest.mark.parametrize(
    ("context", "text", "expected"),
    [
        ("He is Kalkidan", " Abera, I think", ("", True)),
        ("Kalkidan", " Ab", (" Ab", False)),
        ("Kalkidan Aber", "a", ("", True)),
        ("Kalkidan Abera", " is", (" is", False)),
        ("Kalkidan Abera", "", ("", False)),
        ("xKalkidan", " Abera", (" Abera", False)),
        ("Kalkidan Abera, or Kalkidan", " said Kalkidan Abera", (" said ", True)),
        ("\\u004balkidan", " Abera", ("", True)),
    ],
)
def test_the_border_before_the_text(context: str, text: str, expected: tuple[str, bool]) -> None:
    """One character of the text is enough, and none is not."""
    for chunks in ([text], list(text)):
        assert _behind(_shield("Kalkidan Abera"), context, chunks) == expected
