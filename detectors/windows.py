"""Windows of a conversation for the encoder, which silently drops what is beyond its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from detectors.disguises import hidden_language
from detectors.errors import PromptTooLong
from detectors.turns import question_joins

MAX_WINDOWS = 16_384
# A window holds at most this many words and characters, and half of each is new.
WORDS = 64
CHARACTERS = 480
# A longer "word" (base64, text without spaces) is one unknown token to many tokenizers.
WORD_CHARACTERS = 90

# A shorter sentence is no window of its own, which bounds their number.
SENTENCE_CHARACTERS = 24

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+|\n+")

Span = tuple[int, int]


def prompt_windows(texts: Sequence[str]) -> list[str]:
    """The windows to encode for a conversation, without repetitions, in order of appearance.

    Every word of every text is covered: a text of up to 64 words and 240 characters is one
    window, a longer one is cut into overlapping windows, and each character is among the first
    240 characters of some window, which at one token per character still fit the encoder. Beside
    these, each sentence of a text is a window of its own: a question among polite sentences is
    far from the registered question, alone it is near. The number of these is at most
    `2 + words / 32 + characters / 13` per text, for ordinary prose about one per 12 words; blank
    texts have none.

    Further windows are cut from passages that read as language only once they are decoded
    (`detectors.disguises`), and from neighbouring turns joined (`detectors.turns`); one ordinary
    text has neither.

    Raises:
        PromptTooLong: there would be more than `MAX_WINDOWS` windows.
    """
    found: dict[str, None] = {}
    for window in chain.from_iterable(map(_windows, _judged(texts))):
        found[window] = None
        if len(found) > MAX_WINDOWS:
            raise PromptTooLong(f"the conversation has more than {MAX_WINDOWS} windows")
    return list(found)


def _judged(texts: Sequence[str]) -> Iterator[str]:
    """The texts, then what is hidden in them and across them."""
    yield from texts
    for text in texts:
        yield from hidden_language(text)
    for joined in question_joins(texts):
        yield joined
        yield from hidden_language(joined)


def _windows(text: str) -> Iterator[str]:
    return chain(passages(text), _sentences(text))


def passages(text: str) -> list[str]:
    """The overlapping windows of one text without its sentences: what is registered of it.

    A registered sentence such as "Answer in one word." would match innocent prompts.
    """
    return [
        text[start:end]
        for run in _runs(text)
        for start, end in (_cut(run) if isinstance(run, list) else _slices(run))
    ]


def _sentences(text: str) -> Iterator[str]:
    """Sentences that fit one window; a short one goes with the next. None where there is one."""
    pieces: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match.end() - start >= SENTENCE_CHARACTERS:
            pieces.append(text[start : match.end()].strip())
            start = match.end()
    pieces.append(text[start:].strip())
    if len(pieces) == 1:
        return
    for piece in pieces:
        words = piece.split()
        fits = 0 < len(words) <= WORDS and len(piece) <= CHARACTERS
        if fits and max(map(len, words)) <= WORD_CHARACTERS:
            yield piece


def _runs(text: str) -> Iterator[list[Span] | Span]:
    """Runs of ordinary words, and over-long words alone."""
    run: list[Span] = []
    for match in _WORD.finditer(text):
        if match.end() - match.start() <= WORD_CHARACTERS:
            run.append(match.span())
            continue
        if run:
            yield run
            run = []
        yield match.span()
    if run:
        yield run


def _slices(word: Span) -> Iterable[Span]:
    start, end = word
    half = WORD_CHARACTERS // 2
    return ((at, min(at + WORD_CHARACTERS, end)) for at in range(start, end - half, half))


def _cut(words: list[Span]) -> Iterator[Span]:
    first = 0
    while True:
        last = _reach(words, first, WORDS, CHARACTERS)
        start, end = words[first][0], words[last - 1][1]
        yield start, end
        if last == len(words) and end - start <= CHARACTERS // 2:
            return
        first = _reach(words, first, WORDS // 2, CHARACTERS // 2)


def _reach(words: list[Span], first: int, count: int, characters: int) -> int:
    """Index past the last word of a window of at least one word that starts at `first`."""
    start = words[first][0]
    last = first + 1
    while last < min(first + count, len(words)) and words[last][1] - start <= characters:
        last += 1
    return last
