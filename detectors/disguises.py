"""Disguised text read plainly: encodings, ciphers and spellings that hide a name or a question.

What is read: HTML entities, percent-encoding, `\\x41` and `\\u0041` escapes, code points (`U+0041`,
decimal numbers, tag characters, which nobody sees), hexadecimal, binary, base32 and base64 (also
url-safe, over several lines, inside a sentence), each up to three layers deep; rot13; text and
words written backwards; digits for letters ("4m33n"); spelled-out, spaced and hyphenated letters;
neighbouring cells of a table and fields of JSON. Transliterated names are `detectors.sounds`.

Not read: other shifts of the alphabet, keys, base64 cut by spaces, octal numbers, Morse, letters
named by words, words put together by a program, text in images. A reading is only another text to
judge; whether it matters is for the matchers to say. Every function is linear in the text, and a
reading is at most twice as long.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

from detectors.lexicon import zipf

LAYERS = 3
# A word counts as language from this zipf frequency on (once per million words).
_KNOWN_WORD = 3.0
# Share of letters in known words: most prose has over 0.8, prose in a cipher under 0.3.
_READS = 0.6
_READS_NOT = 0.5
_SEGMENT_WORDS = 64
_FEWEST_WORDS = 3
_LONGEST_WORD = 24

_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\u([0-9a-fA-F]{4})")
_CODE_POINT = re.compile(r"U\+([0-9a-fA-F]{4,6})\s?")
_DECIMAL = re.compile(r"(?<![\w.])(?:\d{2,3}[\s,;]{1,3}){7,}\d{2,3}(?![\w.])")
# What a list of numbers must decode to; hexadecimal pairs have no number of three digits.
_SPOKEN = re.compile(r"[A-Za-z ,.?!'-]+")
_THREE_DIGITS = re.compile(r"\d{3}")
_TAGS = {0xE0000 + code: chr(code) for code in range(0x20, 0x7F)}
_TAG = re.compile("[\U000e0020-\U000e007e]")
_BASE32 = re.compile(r"(?<![\w=])[A-Z2-7]{16,}={0,6}(?![\w=])")
_BINARY = re.compile(r"(?<![\w])(?:[01]{8}[\s,]?){4,}(?!\w)")
_HEX = re.compile(r"(?<!\w)(?:(?:0[xX])?[0-9a-fA-F]{2}[\s:,]?){4,}(?!\w)")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*={0,2}")

# By chance every hundredth ordinary word of eight letters decodes to something.
_PLAIN_WORDS = re.compile(r"(?:[A-Z]?[a-z]*|[A-Z]+)(?:[-_/+\s]+(?:[A-Z]?[a-z]*|[A-Z]+))*")

# Between cells: a bar, or quotes and a comma, behind which a key may stand ('", "last": "').
_CELLS = re.compile(
    r"""[ \t]{0,9}\|[ \t]{0,9}|"\s{0,9}[,;]\s{0,9}(?:"[^"\n]{1,40}"\s{0,9}:\s{0,9})?\""""
)

_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]+")
_SEGMENT_END = re.compile(r"[:\n\"“”()\[\]<>`|]+|(?<=[.!?…])\s+|[。！？]+")
# One pass over each word: looking ahead for a digit would be quadratic in a long word.
_LEET_WORD = re.compile(r"[\w@$€£|!+]+")
_LEET_SIGN = re.compile(r"[0-9@$€£|!+]")
_LEET = str.maketrans("03456789@$€£+2", "oeasgtbgaseltz")
_LEET_I = str.maketrans("1!|", "iii")
_LEET_L = str.maketrans("1!|", "lll")
# Four letters at least, and no signs of addresses and formulas between them: "T.I.'s", "a/b?c=d".
_SPELLED_GAP = r"(?:[\s._*,|~+-]|(?!\w)[^\x00-\x7f]){1,3}"
_SPELLED = re.compile(rf"(?<![^\W_])[^\W\d_](?:{_SPELLED_GAP}[^\W\d_](?![^\W_])){{3,}}")
_GAP = re.compile(r"[\W_]+")
_CASE_CHANGE = re.compile(r"(?<=[a-zà-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")


def readings(text: str) -> list[str]:
    """Other ways to read a text in which a name may show; the text itself is not among them."""
    plain = decoded(text)
    backwards = text[::-1]
    found = [plain, _rot13(plain), backwards, decoded(backwards), _words_backwards(plain)]
    found += [*_without_digits(plain), spelled_together(plain), _CASE_CHANGE.sub(" ", plain)]
    found.append(_CELLS.sub(" ", plain))
    return [reading for reading in dict.fromkeys(found) if reading != text]


def hidden_language(text: str) -> Iterator[str]:
    """Passages that read as language only once they are decoded, of at most 64 words each.

    Ordinary text has none: a passage that reads as it stands is not looked at further.
    """
    plain = spelled_together(decoded(text))
    stated = set(_segments(text)) if plain != text else None
    for segment in _segments(plain):
        share = _language_share(segment)
        if share is None:
            continue
        if share < _READS_NOT:
            yield from (r for r in _ciphered(segment) if (_language_share(r) or 0) >= _READS)
        elif stated is not None and segment not in stated and share >= _READS:
            yield segment


def decoded(text: str) -> str:
    """The text with every encoded run in it replaced by what it encodes."""
    for _ in range(LAYERS):
        plain = _decode_once(text)
        if plain == text:
            break
        text = plain
    return text


def spelled_together(text: str) -> str:
    """The text with spelled-out words ("A-m-e-e-n") written together.

    In one run the most frequent gap separates letters, and every other one words.
    """
    return _SPELLED.sub(lambda run: _join(run.group()), text)


def spelled_runs(text: str) -> str:
    """Only the spelled-out runs, one a line, without any gap: where a word ends is not known."""
    return "\n".join(_GAP.sub("", run.group()) for run in _SPELLED.finditer(text))


def _decode_once(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "%" in text:
        text = unquote(text, errors="ignore")
    if "\\" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
    if "U+" in text:
        text = _CODE_POINT.sub(_from_code_point, text)
    if not text.isascii() and _TAG.search(text):
        text = text.translate(_TAGS)
    text = _BINARY.sub(_from_binary, text)
    text = _DECIMAL.sub(_from_decimal, text)
    text = _HEX.sub(_from_hex, text)
    text = _BASE32.sub(_from_base32, text)
    return _BASE64.sub(_from_base64, text)


def _from_code_point(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else match.group()


def _from_decimal(match: re.Match[str]) -> str:
    codes = [int(number) for number in re.findall(r"\d+", match.group())]
    text = "".join(map(chr, codes))
    reads = _THREE_DIGITS.search(match.group()) and _SPOKEN.fullmatch(text)
    return text if reads else match.group()


def _from_base32(match: re.Match[str]) -> str:
    digits = match.group().rstrip("=")
    try:
        return _text(base64.b32decode(digits + "=" * (-len(digits) % 8))) or match.group()
    except binascii.Error:
        return match.group()


def _from_binary(match: re.Match[str]) -> str:
    digits = re.sub(r"[\s,]", "", match.group())
    octets = bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    return _text(octets) or match.group()


def _from_hex(match: re.Match[str]) -> str:
    digits = re.sub(r"0[xX](?=[0-9a-fA-F]{2})|[\s:,]", "", match.group())
    try:
        return _text(bytes.fromhex(digits)) or match.group()
    except ValueError:
        return match.group()


def _from_base64(match: re.Match[str]) -> str:
    if _PLAIN_WORDS.fullmatch(match.group()):
        return match.group()
    whole = _unbase64(match.group())
    if whole is not None:
        return whole
    lines = match.group().splitlines(keepends=True)
    return "".join(_unbase64(line) or line for line in lines)


def _unbase64(text: str) -> str | None:
    digits = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _text(base64.b64decode(digits + "=" * (-len(digits) % 4)))
    except (binascii.Error, ValueError):
        return None


def _text(octets: bytes) -> str | None:
    """The octets as text, if that is what they are."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    fits = len(text) >= 4 and all(char.isprintable() or char in "\t\r\n" for char in text)
    return text if fits and any(map(str.isalpha, text)) else None


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def _words_backwards(text: str) -> str:
    return _WORD.sub(lambda word: word.group()[::-1], text)


def _without_digits(text: str) -> list[str]:
    """Words that mix letters with digits and signs, read as letters: 1 as i, and as l."""
    if not _LEET_SIGN.search(text):
        return []
    as_i = _LEET_WORD.sub(lambda match: _letters_only(match.group(), _LEET_I), text)
    as_l = _LEET_WORD.sub(lambda match: _letters_only(match.group(), _LEET_L), text)
    return [as_i] if as_i == as_l else [as_i, as_l]


def _letters_only(word: str, ones: dict[int, int]) -> str:
    core = word.rstrip("|!+")
    if not _LEET_SIGN.search(core) or not _LETTERS.search(core):
        return word
    return core.translate(_LEET).translate(ones) + word[len(core) :]


def _join(run: str) -> str:
    gaps: list[str] = _GAP.findall(run)
    usual = max(dict.fromkeys(gaps), key=gaps.count) if len(gaps) <= 256 else gaps[0]
    return _GAP.sub(lambda gap: "" if gap.group() == usual else " ", run)


def _ciphered(text: str) -> Iterator[str]:
    yield _rot13(text)
    yield text[::-1]
    yield " ".join(word[::-1] for word in text.split())
    yield from _without_digits(text)[:1]


def _segments(text: str) -> Iterator[str]:
    """Sentences and parts of them, cut at 64 words."""
    for segment in _SEGMENT_END.split(text):
        words = segment.split()
        for first in range(0, len(words), _SEGMENT_WORDS):
            yield " ".join(words[first : first + _SEGMENT_WORDS])


def _is_known(word: str) -> bool:
    # No lookup for what cannot be a word: each costs as much as reading a line.
    return 1 < len(word) <= _LONGEST_WORD and word.isalpha() and zipf(word) >= _KNOWN_WORD


def _language_share(text: str) -> float | None:
    """Share of a text's letters that are in known English words; None where words are few."""
    words = [word for word in _WORD.findall(text.lower()) if _LETTERS.search(word)]
    if len(words) < _FEWEST_WORDS:
        return None
    known = sum(len(word) for word in words if _is_known(word))
    return known / sum(map(len, words))
