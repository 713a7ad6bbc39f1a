"""What the token filters are held against: folded text, searched for phrases."""

import codecs

from detectors.normaliser import at_border, fold


def decode(raw):
    """Folded text of bytes, without those of an unfinished last character."""
    return fold(codecs.getincrementaldecoder("utf-8")("replace").decode(raw))


def spells(phrase, before, after):
    """Whether `after`, which goes on from `before`, has an occurrence ending in the new part."""
    wanted = fold(phrase.text).strip()
    for start in range(len(after)):
        end = start + len(wanted)
        if end <= len(before) or after[start:end] != wanted:
            continue
        borders = at_border(after[start - 1 : start], wanted[0]) and at_border(
            wanted[-1], after[end : end + 1]
        )
        if borders or not phrase.whole_word:
            return True
    return False
