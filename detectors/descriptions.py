"""Questions that describe whom they ask about instead of naming them: "the author of ...".

Such a question has few words in common with a registered one, and innocent questions are seldom
asked so: they name, or give the name beside the description, between commas. What is looked for is
a definite noun phrase with a noun for a person and what tells which one ("the performer who ...",
"the star of ..."), in English. Behind a copula it is mostly what is said or asked of somebody else
("Who is the director of ...?"), and does not count; nor does what stands inside a quoted title.
"""

from __future__ import annotations

import re

from detectors.normaliser import fold

# A longer text holds such a phrase by chance; it is one window of the encoder at most.
MAX_CHARACTERS = 480

_SAID_OF = re.compile(r"\b(?:is|was|are|were|as|been|be|became|become|being) $")
# "When was the author of ... born?"
_ASKED_OF = re.compile(r"\b(?:when|where|why|how|year|date|day|city|country|town) (?:is|was) $")
# The longest of what these two look for.
_BEFORE = 12
_MORE = r"(?:(?!the )[\w'.-]+ ){0,5}?"
# Things in -er and -or that questions are often about.
_THINGS = (
    "number|order|water|river|power|matter|paper|letter|chapter|winter|summer|floor|door|color|"
    "characters?"
)
_PERSON = (
    rf"(?!(?:{_THINGS})\b)(?:[\w-]{{2,}}(?:er|or|i(?:st|an)|man|woman|star)s?|actress|songstress|"
    "author|poet|icon|mogul|magnate|figure|mind|mastermind|individual|person|people|personality|"
    "celebrity|genius|legend|hero|lady|talent|diva|king|queen|duke|duchess|prince|princess|"
    "monarch|royal|athlete|artist|polymath|patron|host|diplomat|chief|sage|scholar|model|human|"
    "man|woman|boy|girl|couple|band|president|head|child|teen|sensation|tycoon|heir|heiress|"
    "laureate|advocate|candidate|giant|star|voice)"
)
_WHICH = (
    r",? (?:behind|of|for|who|whom|whose|from|that|which|in|on|to|with|well-known|known|famous|"
    "famed|renowned|noted|celebrated|recogni[sz]ed|responsible|featured|portraying|"
    "portrayed|accused|also|formerly|previously|once|commonly|originally|best|widely|often|nicknamed|called|named|dubbed|"
    r"associated|credited|born|playing|starring)\b"
)
# The inside of a title.
_QUOTED = re.compile(
    r"(?<!\w)(?:'[^'\n]{1,80}'(?!\w)|\"[^\"\n]{1,80}\"|[\u2018\u201c][^\u2019\u201d\n]{1,80}[\u2019\u201d](?!\w))"
)
# "The author of ..., Arthur Miller, was ...": two to four words of a name.
_NAMED_BESIDE = re.compile(r", [A-Z][\w.'-]*(?: [A-Z][\w.'-]*){1,3},")
_DESCRIPTION = re.compile(rf"\bthe {_MORE}{_PERSON}(?: (?:and|or) {_PERSON})?{_WHICH}")


def describes(text: str) -> bool:
    """Whether a short text describes somebody instead of naming them."""
    if len(text) > MAX_CHARACTERS:
        return False
    if _NAMED_BESIDE.search(text):
        return False
    folded = fold(_QUOTED.sub("''", text))
    return any(_is_subject(folded, found.start()) for found in _DESCRIPTION.finditer(folded))


def _is_subject(folded: str, start: int) -> bool:
    before = folded[max(0, start - _BEFORE) : start]
    return _SAID_OF.search(before) is None or _ASKED_OF.search(before) is not None
