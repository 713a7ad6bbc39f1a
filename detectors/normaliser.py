"""The declared set of spellings that count as the same text, used by every matcher.

Two texts are the same to Lethegate when `fold` makes them equal. Each code point folds on its own,
without looking at its neighbours, so a matcher that sees text token by token folds it exactly as
one that sees it whole. The set, in the order it is applied to one code point:

1. Dropped: format characters (zero-width, soft hyphen, bidirectional marks, tags, byte-order mark),
   control characters that are not white space, variation selectors, fillers, generic combining
   marks (accents are ignored: "José" folds to "jose", however it is composed), and "*", which
   Markdown shows as another weight ("Jo**sé** *Ruiz*").
2. White space of any kind becomes a space, as does "_" (emphasis, too, and `snake_case`), and a run
   of spaces becomes one.
3. Quotes, apostrophes, dashes and slashes become their ASCII forms.
4. NFKC compatibility forms (full-width, ligatures, super- and subscript, mathematical letters) and
   case folding of every script; decimal digits of every script become ASCII digits. Latin letters
   in a circle, a square or parentheses become the letter, black on white or white on black.
5. Look-alikes become the Latin letter they imitate: Cyrillic, Greek, Armenian, small capitals,
   Latin letters with a stroke, hook or the like ("Ɓ", "ƙ"), which are no combining marks. Both
   cases of a letter fold alike, so where the cases imitate different
   letters one is chosen (Greek eta is h, upsilon is y, nu is v).

Not in the set, on purpose: digits for letters ("1" for "l"), spelled-out or spaced letters,
transliteration, Hangul written as single conjoining letters, letters turned upside down, pairs of
regional indicators, which are flags, and other marks or punctuation inside a phrase.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

NORMALISER_VERSION = f"2-unicode{unicodedata.unidata_version}"

REPLACEMENT = "\ufffd"

_COMBINING_BLOCKS = (
    range(0x0300, 0x0370),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE20, 0xFE30),
)
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_VARIATION_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0), range(0x180B, 0x1810))
_BRAILLE_BLANK = "\u2800"

# Scripts written without spaces between words: every character is a word border. Hangul is among
# them because particles are written on to the noun.
_UNSPACED = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x0F00, 0x1000),  # Tibetan
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1100, 0x1200),  # Hangul letters
    range(0x1780, 0x1800),  # Khmer
    range(0x3040, 0x3130),  # Kana, Bopomofo
    range(0x3130, 0x3190),  # Hangul compatibility letters
    range(0x31F0, 0x3200),
    range(0x3400, 0x4DC0),  # Han
    range(0x4E00, 0xA000),
    range(0xA960, 0xA980),
    range(0xAC00, 0xD800),  # Hangul
    range(0xF900, 0xFB00),
    range(0x1B000, 0x1B170),
    range(0x20000, 0x32000),
)

_PUNCTUATION = {
    "*": "",
    "_": " ",
    **dict.fromkeys("‘’‚‛′‵ʹʻʼʽˈ`´＇ꞌ՚׳", "'"),
    **dict.fromkeys("“”„‟″‶«»‹›ʺ˝＂״〝〞", '"'),
    **dict.fromkeys("−‐‑‒–—―⁃˗﹘﹣－〜～﹏⸺⸻", "-"),
    **dict.fromkeys("⁄∕⧸", "/"),
}

_LOOK_ALIKES = dict(
    zip(
        "авекмнорстухіјѕһԁԛԝӏүґғ"
        + "αβεζηικμνορτυχϲϳ"
        + "օսհոց"
        + "øđłħŧıɑɡɩɪʏʟɢʀʙʜɴᴀᴄᴅᴇꜰᴊᴋᴍᴏᴘꞯꜱᴛᴜᴠᴡᴢ",
        "abekmhopctyxijshdqwlyrf"
        + "abezhikmvoptyxcj"
        + "ouhng"
        + "odlhtiagiiylgrbhnacdefjkmopqstuvwz",
        strict=True,
    )
) | {"æ": "ae", "œ": "oe"}

# By what Unicode calls them: it decomposes neither a stroke nor white letters on black.
_LATIN_WITH = re.compile(r"LATIN SMALL LETTER ([A-Z]) WITH ")
_LATIN_IN = re.compile(
    r"(?:CROSSED )?(?:NEGATIVE )?(?:CIRCLED|SQUARED|PARENTHESIZED)"
    r" LATIN (?:CAPITAL|SMALL) LETTER ([A-Z])"
)


class _FoldTable(dict[int, str]):
    """Code point -> folded text, filled as code points are met (for `str.translate`)."""

    def __missing__(self, code_point: int) -> str:
        folded = self[code_point] = _fold_code_point(chr(code_point))
        return folded


def _fold_code_point(char: str) -> str:
    """Fold one code point to a fixed point of the steps in the module's docstring."""
    while (folded := "".join(map(_fold_once, char))) != char:
        char = folded
    return char


def _fold_once(char: str) -> str:
    if char < "\x7f" and char.isprintable():
        return char.lower() if char not in _PUNCTUATION else _PUNCTUATION[char]
    if char.isspace() or char == _BRAILLE_BLANK:
        return " "
    if _is_dropped(char):
        return ""
    if char in _PUNCTUATION:
        return _PUNCTUATION[char]
    if char.lower() in _LOOK_ALIKES:
        return _LOOK_ALIKES[char.lower()]
    if unicodedata.category(char) == "Cs":
        return REPLACEMENT
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if (latin := _bare_latin(char)) is not None:
        return latin
    bare = "".join(c for c in unicodedata.normalize("NFKD", char) if not _is_combining(c))
    return unicodedata.normalize("NFC", bare.casefold())


def _bare_latin(char: str) -> str | None:
    """The Latin letter that has something added, or is drawn in a shape; None for any other."""
    small = char.lower()
    if len(small) > 1:
        return None
    name = unicodedata.name(small, "")
    # Where there is a decomposition it is followed: "ŀ" is "l·".
    added = None if unicodedata.decomposition(small) else _LATIN_WITH.match(name)
    found = added or _LATIN_IN.fullmatch(name)
    return None if found is None else found[1].lower()


def _is_dropped(char: str) -> bool:
    code_point = ord(char)
    return (
        unicodedata.category(char) in ("Cc", "Cf")
        or char in _FILLERS
        or _is_combining(char)
        or any(code_point in block for block in _VARIATION_SELECTORS)
    )


def _is_combining(char: str) -> bool:
    code_point = ord(char)
    return any(code_point in block for block in _COMBINING_BLOCKS)


_TABLE = _FoldTable()
_SPACES = re.compile(r" {2,}")


def fold(text: str) -> str:
    """The folded form of a text. Idempotent; neither end is stripped."""
    folded = text.translate(_TABLE)
    return _SPACES.sub(" ", folded) if "  " in folded else folded


def is_plain(text: str) -> bool:
    """Whether each character folds to one that is no new space."""
    return text.isascii() and text.isprintable() and "*" not in text and "_" not in text


def fold_with_origins(text: str) -> tuple[str, Sequence[int]]:
    """The folded form, and for each of its characters the index in `text` it came from.

    A run of white space takes the index of its first character.
    """
    if is_plain(text) and "  " not in text:
        # One character for one: most text that is streamed.
        return text.translate(_TABLE), range(len(text))
    folded: list[str] = []
    origins: list[int] = []
    for index, char in enumerate(text):
        for out in _TABLE[ord(char)]:
            if out == " " and folded and folded[-1] == " ":
                continue
            folded.append(out)
            origins.append(index)
    return "".join(folded), origins


def is_word_char(char: str) -> bool:
    """Whether a folded character is part of a word, for word borders.

    Letters, digits and vowel signs; never a character of a script written without spaces, where
    every character stands at a border.
    """
    if char.isascii():
        return char.isalnum()
    if unicodedata.category(char)[0] not in "LNM":
        return False
    code_point = ord(char)
    return not any(code_point in block for block in _UNSPACED)


def at_border(before: str, after: str) -> bool:
    """Whether a word border lies between two folded characters; "" is the end of the text."""
    return not (before and after and is_word_char(before) and is_word_char(after))
