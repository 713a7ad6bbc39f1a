"""Which phrases of a forget target may not be said: for the whole target, and per item.

Target-wide phrases are distinctive: names, titles, full dates, long numbers and words so rare that
an innocent answer would not use them. Item phrases are whatever an answer says that its prompt
does not, or offers to choose from; they hold only while that item is matched, so everyday words may
be among them.
GUARD (arXiv 2505.13312) extracts phrases from the retrieved answer; its rule is not published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from detectors.alias import PhraseIndex
from detectors.alternatives import Alternatives
from detectors.dates import date_forms
from detectors.lexicon import NUMBER_WORDS, is_frame_word, is_function_word, zipf, zipf_anywhere
from detectors.normaliser import fold, is_word_char
from detectors.spans import WORD, Kind, Span, names, spans
from detectors.targets import ForgetTarget

# The rarest ones are kept where a large document yields more.
MAX_TARGET_PHRASES = 2_000

_RARE_NAME_PART = 4.0
_RARE_SINGLE_NAME = 2.5
_RARE_WORD = 1.5
_RARE_TITLE = -7.5
_RARE_SINGLE_TITLE = 3.0
_LONG_NUMBER_DIGITS = 6
_KNOWN_FORM = 2.0
_OF_PLACES = ("i", "n", "an", "ian", "ean", "ese", "ish")
_SUBJECT_SHARE = 0.5
_TOP_SUBJECT_SHARE = 0.3


class Reason(StrEnum):
    """Why a phrase is forbidden."""

    OPERATOR = "operator"
    ALIAS = "alias"
    NAME = "name"
    TITLE = "title"
    NUMBER = "number"
    DATE = "date"
    IDENTIFIER = "identifier"
    RARE_WORD = "rare_word"
    ANSWER_WORD = "answer_word"


_REASONS = {
    Kind.NAME: Reason.NAME,
    Kind.TITLE: Reason.TITLE,
    Kind.NUMBER: Reason.NUMBER,
    Kind.DATE: Reason.DATE,
    Kind.IDENTIFIER: Reason.IDENTIFIER,
}


@dataclass(frozen=True, slots=True)
class ExtractedPhrase:
    """A forbidden phrase; `whole_word` asks for word borders on both sides."""

    text: str
    whole_word: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Extraction:
    """Phrases of a target, and of each of its examples (aligned with `target.examples`)."""

    target: tuple[ExtractedPhrase, ...]
    items: tuple[tuple[ExtractedPhrase, ...], ...]


def extract(target: ForgetTarget) -> Extraction:
    """The phrases of a target. Deterministic; each phrase occurs once per list, by folded form."""
    struck = {phrase_key(phrase) for phrase in target.excluded_phrases}
    items = tuple(
        _unique(_item_phrases(example.prompt, example.answer, struck), struck)
        for example in target.examples
    )
    return Extraction(_unique(_target_phrases(target), struck), items)


def telling(phrases: Iterable[ExtractedPhrase]) -> tuple[ExtractedPhrase, ...]:
    """Of an item's phrases those that tell something by themselves: no everyday words."""
    return tuple(p for p in phrases if p.reason is not Reason.ANSWER_WORD or p.text[:1].isupper())


def subject_names(target: ForgetTarget) -> tuple[str, ...]:
    """Full names that most of the target's prompts are about.

    They are as good as aliases: names of two words or more, in at least two prompts and half of
    them (30 % for the most frequent one), not everyday words in a row, and neither struck by the
    operator nor found in a retain example. On TOFU and RWKU they never named anyone else.
    """
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for example in target.examples:
        for key, text in {
            phrase_key(span.text): span.text for span in names(example.prompt)
        }.items():
            if len(key.split()) > 1:
                counts[key] += 1
                spelled.setdefault(key, text)
    most = max(counts.values(), default=0)
    share = {True: _TOP_SUBJECT_SHARE, False: _SUBJECT_SHARE}
    struck = {phrase_key(phrase) for phrase in target.excluded_phrases}
    found = [
        spelled[key]
        for key, count in sorted(counts.items())
        if count >= max(2.0, share[count == most] * len(target.examples))
        and key not in struck
        and _distinctive_title(spelled[key].lower())
    ]
    return tuple(_not_retained(found, target.retain_examples))


def _target_phrases(target: ForgetTarget) -> Iterator[ExtractedPhrase]:
    for phrase in target.phrases:
        yield ExtractedPhrase(phrase.text, phrase.whole_word, Reason.OPERATOR)
    for alias in target.aliases:
        yield ExtractedPhrase(alias, True, Reason.ALIAS)
    texts = [text for example in target.examples for text in (example.prompt, example.answer)]
    texts += [document.text for document in target.documents]
    found: dict[str, tuple[str, Reason]] = {}
    for text in texts:
        for span in spans(text):
            reason = _distinctive(span)
            if reason is not None:
                found.setdefault(phrase_key(span.text), (span.text, reason))
    rarest = sorted(found, key=lambda key: (zipf(key), key))
    allowed = {
        phrase_key(t) for t in _not_retained(rarest[:MAX_TARGET_PHRASES], target.retain_examples)
    }
    kept = [found[key] for key in found if key in allowed]
    for text, reason in kept:
        yield ExtractedPhrase(text, True, reason)
    dates = [form for text, reason in kept if reason is Reason.DATE for form in _whole_date(text)]
    for form in _not_retained(dates[:MAX_TARGET_PHRASES], target.retain_examples):
        yield ExtractedPhrase(form, True, Reason.DATE)


def _whole_date(text: str) -> tuple[str, ...]:
    """Other spellings of a date, those of its day and month among them, and not of its year."""
    forms = date_forms(text)
    return () if forms is None else (*forms.numeric, *forms.days)


def _distinctive(span: Span) -> Reason | None:
    """Why a span is distinctive enough to be forbidden for the whole target; None if it is not."""
    # Lower case, not folded: frequencies are of words with their accents.
    text = span.text.lower()
    if span.kind is Kind.WORD:
        limit = _RARE_SINGLE_NAME if span.text[0].isupper() else _RARE_WORD
        return Reason.RARE_WORD if _rare_word(text, limit) else None
    fits = {
        Kind.NAME: _distinctive_name,
        Kind.TITLE: _distinctive_title,
        Kind.DATE: _full_date,
        Kind.NUMBER: _long_number,
        Kind.IDENTIFIER: _long_identifier,
    }[span.kind](text)
    return _REASONS[span.kind] if fits else None


def _distinctive_name(text: str) -> bool:
    words = [word for word in text.split() if len(word) > 1]
    if len(words) < 2:
        return _rare_word(text, _RARE_SINGLE_NAME)
    return min(zipf(word) for word in words) < _RARE_NAME_PART


def _distinctive_title(text: str) -> bool:
    words = [match.group() for match in WORD.finditer(text)]
    if len(words) < 2:
        return bool(words) and _long_enough(text) and zipf_anywhere(text) < _RARE_SINGLE_TITLE
    # log10 of the probability of these words in a row, were they independent.
    return sum(zipf(word) - 9 for word in words) <= _RARE_TITLE


def _rare_word(text: str, limit: float) -> bool:
    # No frequencies are known for scripts without spaces, where a "word" is a whole clause.
    spaced = all(is_word_char(char) or char in "-'’." for char in text)
    return spaced and _long_enough(text) and text[0].isalpha() and zipf_anywhere(text) < limit


def _long_enough(text: str) -> bool:
    return len(text) > (3 if is_word_char(text[0]) else 1)


def _full_date(text: str) -> bool:
    digits = sum(map(str.isdigit, text))
    return digits >= 5 or (digits >= 4 and any(char in text for char in "/.-"))


def _long_number(text: str) -> bool:
    return sum(map(str.isdigit, text)) >= _LONG_NUMBER_DIGITS


def _long_identifier(text: str) -> bool:
    if "@" in text or "://" in text or text.startswith("www."):
        return True
    return len(text) >= 6 and sum(map(str.isdigit, text)) >= 3


def _item_phrases(prompt: str, answer: str, struck: set[str]) -> Iterator[ExtractedPhrase]:
    """What the answer says and the prompt does not, but for what the prompt offers to choose from.

    A struck word takes its inflections along.
    """
    found = [other for span in spans(answer) for other in (span, *_other_dates(span))]
    said = _said(found, prompt) - _offered(found, prompt)
    for span in found:
        key = phrase_key(span.text)
        if not key or key in said or key in struck:
            continue
        if span.kind is not Kind.WORD:
            if not all(_idle(match.group()) for match in WORD.finditer(key)):
                yield ExtractedPhrase(span.text, True, _REASONS[span.kind])
        elif not _idle(key):
            number = key.isdigit() or key in NUMBER_WORDS
            reason = Reason.NUMBER if number else Reason.ANSWER_WORD
            yield ExtractedPhrase(span.text, True, reason)
            forms = _inflections(key)
            if span.text[0].isupper():
                forms |= _derived(key)
            for form in sorted(forms - said):
                yield ExtractedPhrase(form, True, reason)


def _other_dates(span: Span) -> Iterator[Span]:
    """A date in its other spellings, and what of it tells less: day and month, or the year."""
    forms = date_forms(span.text) if span.kind is Kind.DATE else None
    if forms is not None:
        for text in (*forms.days, *forms.numeric, *([forms.year] if forms.year else ())):
            yield Span(Kind.DATE, span.start, text)


def _offered(found: list[Span], prompt: str) -> set[str]:
    """Folded spans that the prompt offers as alternatives; of a name its words are not."""
    alternatives = Alternatives(prompt)
    idle = {word for word in alternatives.words() if _idle(word)}
    offered: set[str] = set()
    taken: list[range] = []
    for span in sorted(found, key=lambda span: -len(span.text)):
        key, place = phrase_key(span.text), range(span.start, span.start + len(span.text))
        within = any(span.start in other for other in taken)
        if key and not within and not _idle(key) and alternatives.offer(key, idle):
            offered.add(key)
            taken.append(place)
    return offered


def _said(found: list[Span], prompt: str) -> set[str]:
    """Folded spans, and inflections of them, that the prompt contains."""
    keys = {phrase_key(span.text) for span in found}
    keys |= {form for key in keys for form in _inflections(key) | _derived(key)}
    listed = sorted(keys)
    said = {listed[number] for number in PhraseIndex(listed).find(prompt)}
    return said | {form for key in said for form in _inflections(key)}


def _inflections(key: str) -> set[str]:
    """Plural or singular of an English word (folded), by its ending, if it is a known word."""
    if len(key) < 4 or not (key.isascii() and key.isalpha()) or key in NUMBER_WORDS:
        return set()
    form = _inflect(key)
    return {form} if form and zipf(form) >= _KNOWN_FORM else set()


def _derived(key: str) -> set[str]:
    """Known words for the people and things of a place (folded): Kuwait, Kuwaiti, Kuwaitis."""
    if len(key) < 4 or not (key.isascii() and key.isalpha()):
        return set()
    stems = {key, key.rstrip("aeoy")} if len(key) > 4 else {key}
    forms = {stem + ending for stem in stems for ending in _OF_PLACES} - {key}
    known = {form for form in forms if zipf(form) >= _KNOWN_FORM}
    return known | {form + "s" for form in known if not form.endswith(("ish", "ese"))}


def _inflect(key: str) -> str:
    if key.endswith(("ss", "us", "is", "ed", "ing", "ly")):
        return ""
    if key.endswith("ies"):
        return key[:-3] + "y"
    if key.endswith(("sses", "shes", "ches", "xes")):
        return key[:-2]
    if key.endswith("s"):
        return key[:-1]
    if key.endswith("y") and key[-2] not in "aeiou":
        return key[:-1] + "ies"
    return key + ("es" if key.endswith(("sh", "ch", "x", "z")) else "s")


def _idle(key: str) -> bool:
    """Whether a folded word tells nothing: function words, frame words, single letters."""
    if len(key) == 1 and key.isascii() and not key.isdigit():
        return True
    return is_function_word(key) or is_frame_word(key)


def _not_retained(phrases: list[str], retain_examples: Iterable[str]) -> list[str]:
    index = PhraseIndex(phrases)
    retained = {number for text in retain_examples for number in index.find(text)}
    return [phrase for number, phrase in enumerate(phrases) if number not in retained]


def _unique(phrases: Iterable[ExtractedPhrase], struck: set[str]) -> tuple[ExtractedPhrase, ...]:
    """The first phrase of each folded form that is not struck; a part match beats a whole word."""
    kept: dict[str, ExtractedPhrase] = {}
    for phrase in phrases:
        key = phrase_key(phrase.text)
        if not key or key in struck:
            continue
        if key not in kept or (kept[key].whole_word and not phrase.whole_word):
            kept[key] = phrase
    return tuple(kept.values())


def phrase_key(text: str) -> str:
    """What makes two phrases the same: their folded form."""
    return fold(text).strip()
