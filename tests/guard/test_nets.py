"""Nets one behind the other: what comes out is what all of them let through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.nets import Catch, NetChain, Released
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield


class WordNet:
    """Catches a word once it is complete, and releases whole words only."""

    def __init__(self, word: str) -> None:
        self._word, self.held, self._caught = word, "", False

    def feed(self, delta: str) -> Released:
        self.held += delta
        out = ""
        while " " in self.held and not self._caught:
            word, _, rest = self.held.partition(" ")
            self._caught = word == self._word
            if not self._caught:
                out, self.held = out + word + " ", rest
        return Released(out, Catch.PADDING if self._caught else None)

    def finish(self) -> Released:
        self._caught = self._caught or self.held == self._word
        return Released("", Catch.PADDING) if self._caught else Released(self.held)

    def reveals(self, ending: str) -> Catch | None:
        return Catch.PADDING if self._word in (self.held + ending).split(" ") else None


def _chain(word: str, *phrases: str) -> NetChain:
    names = PhraseMatcher(map(Phrase, phrases), Catch.NAME)
    return NetChain([WordNet(word), OutputShield([names])])


def _run(chain: NetChain, chunks: list[str]) -> tuple[str, Catch | None]:
    out = "".join(chain.feed(chunk).text for chunk in chunks)
    last = chain.finish()
    return out + last.text, last.caught


@pytest.mark.parametrize("size", [1, 3, 100])
def test_each_net_can_end_the_answer(size: int) -> None:
    """Whichever net catches first says why, and nothing follows."""

    def run(text: str) -> tuple[str, Catch | None]:
        return _run(
            _chain("secret", "john smith"), [text[i : i + size] for i in range(0, len(text), size)]
        )

    assert run("a John Doe b") == ("a John Doe b", None)
    assert run("a secret b John Smith") == ("a ", Catch.PADDING)
    assert run("a John Smith b secret") == ("a ", Catch.NAME)


def test_the_last_net_judges_what_an_earlier_one_cuts() -> None:
    """A cut ends a word, and so it may complete a phrase."""

    class SignNet(WordNet):
        """Catches a sign, and releases all before it at once."""

        def feed(self, delta: str) -> Released:
            before, sign, _ = delta.partition(self._word)
            return Released(before, Catch.PADDING if sign else None)

    names = PhraseMatcher([Phrase("john")], Catch.NAME)
    chain = NetChain([SignNet("#"), OutputShield([names])])

    assert _run(chain, ["so Johnny", " or John#ny"]) == ("so Johnny or ", Catch.PADDING)


def test_an_ending_is_judged_behind_all_that_is_held() -> None:
    """What an earlier net still holds stands before the ending for the next."""
    chain = _chain("secret", "john smith")
    chain.feed("was John Sm")

    assert chain.held == "John Sm"
    assert chain.reveals("ith") is Catch.NAME
    assert chain.reveals("oke secret") is Catch.PADDING
    assert chain.reveals("oke") is None


@settings(max_examples=100, deadline=None)
@given(st.text("ab ", max_size=20), st.integers(1, 5))
def test_chunks_do_not_matter(text: str, size: int) -> None:
    """The same beginning comes out however the text is cut; which net speaks first may differ."""
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    out, caught = _run(_chain("bb", "a b", "ab"), chunks)

    whole, caught_whole = _run(_chain("bb", "a b", "ab"), [text])

    assert (out, bool(caught)) == (whole, bool(caught_whole))
    assert text.startswith(out)
    assert caught or out == text
