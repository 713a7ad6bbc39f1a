"""Other names of whom a target is about, as its own texts state them: birth, full and stage names.

Only statements with a registered alias in them count ("Jay-Z, born Shawn Corey Carter"; "What was
Jay-Z's birth name?"), or a full name that shares its last name with one ("Shawn Corey Carter (born
1969)", where "Shawn Carter" is an alias). A name found so is as good as an alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from detectors.alias import PhraseIndex, is_distinctive
from detectors.normaliser import fold
from detectors.targets import ForgetTarget

# Two to five capitalised words, with "de", "van" and the like between them.
_WORD = r"[A-ZÀ-ÖØ-ÞĀ-Ž][^\W\d_]+(?:[-'’][^\W\d_]+)*"
_LINK = r"(?:(?:de|da|di|del|della|von|van|der|den|el|al|bin|ibn|la|le) ){0,2}"
_FULL = (
    rf"(?P<name>{_WORD}(?: (?:[A-Z]\. )?{_LINK}{_WORD}){{1,4}}(?: (?:Jr\.?|Sr\.?|I{{2,3}}|IV))?)"
)
# Where a name is stated as such, one word will do.
_ANY = _FULL.replace("){1,4}", "){0,4}")
# Elsewhere in a sentence the statement may be about another: "her husband, born ...".
_START = r"(?:^|[.!?\n] ?)"
_KIND = r"(?:real|birth|full|legal|original|given|christened)"
_KNOWN = (
    r"(?:(?:also|better|best|formerly|professionally|commonly|widely) )*known (?:professionally )?"
)
_AS = r"(?:as|by (?:his|her|their) stage name,?)"
_BLANK = re.compile(r"_{2,}")
_SUFFIX = re.compile(r",? (?:jr\.?|sr\.?|i{2,3}|iv)$")


def other_names(target: ForgetTarget, aliases: Sequence[str]) -> tuple[str, ...]:
    """Names that the target's examples and documents give to whom `aliases` name, in order.

    Left out is what the operator struck, what a retain example says, and what is not distinctive.
    """
    known = {fold(text).strip() for text in (*aliases, *target.excluded_phrases)}
    # "Betty White's legal name was Betty" names nobody better.
    known.update(word for alias in aliases for word in fold(alias).split())
    found: dict[str, str] = {}
    for text in _statements(target):
        for name in _stated(text, aliases):
            key = fold(name).strip().rstrip(".")
            if key not in known and is_distinctive(name):
                found.setdefault(key, name)
    names = tuple(found.values())
    index = PhraseIndex(names)
    retained = {number for text in target.retain_examples for number in index.find(text)}
    return tuple(name for number, name in enumerate(names) if number not in retained)


def _statements(target: ForgetTarget) -> Iterator[str]:
    for example in target.examples:
        parts = _BLANK.split(example.prompt)
        yield example.answer.join(parts if len(parts) > 1 else (f"{example.prompt} ", ""))
    for document in target.documents:
        yield document.text


def _stated(text: str, aliases: Iterable[str]) -> Iterator[str]:
    for alias in aliases:
        short = alias.partition(",")[0].strip()
        for pattern in _patterns(alias, short if " " in short else alias):
            yield from (found["name"] for found in re.finditer(pattern, text))
        last = _last_name(alias)
        for found in re.finditer(rf"{_START}{_FULL} \(born\b", text):
            if last and _last_name(found["name"]) == last:
                yield found["name"]


def _patterns(alias: str, short: str) -> Iterator[str]:
    one = "(?:" + "|".join(map(re.escape, dict.fromkeys((alias, short)))) + ")"
    yield rf"{_START}{one},?(?: \(;?| was)? ?born {_FULL}"
    yield rf"\b{one}['’]s? {_KIND} name(?: at birth)?(?: is| was|\?):? {_ANY}"
    yield rf"\b{_KIND} name (?:of )?{one}(?: (?:is|was)| was \w+ with)?\??:? {_ANY}"
    yield rf"{_START}{_FULL},?(?: (?:is|was))? {_KNOWN}{_AS} {one}\b"
    yield rf"{_START}{one},? (?:is |was )?also {_KNOWN}as {_FULL}"


def _last_name(name: str) -> str:
    """The folded last word of a name of several words, without "Jr." and the like."""
    words = _SUFFIX.sub("", fold(name).strip()).split()
    return words[-1] if len(words) > 1 else ""
