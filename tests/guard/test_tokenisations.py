"""How texts are tokenised for the veto, with a real byte-level BPE."""

import random

import pytest

from guard.tokenisations import Tokenisations, tokenizer_of

WORDS = ("the", "Harbour", "lantern", "was", "unlit", "and", "Nobody", "rowed", "across", "water")
LIMIT = 8
N = LIMIT - 1  # what is registered


@pytest.fixture(scope="module")
def encode(demo_model):
    return tokenizer_of(str(demo_model))


def sentences(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randrange(9, 15))) + "." for _ in range(count)]


def grams(sequences, n=N):
    return {tuple(ids[i : i + n]) for ids in map(list, sequences) for i in range(len(ids) - n + 1)}


def covers(encode, text, said, skip=0):
    """Whether every n-gram of what was said is registered, but for the first `skip` tokens."""
    [ids] = encode([said])
    return grams([ids[skip:]]) <= grams(Tokenisations(encode, LIMIT).of(text))


@pytest.mark.parametrize("seed", range(5))
def test_beginnings(encode, seed):
    """An answer may begin anywhere a line or sentence does, and be put behind a space."""
    rng = random.Random(seed)
    parts = sentences(rng, 6)
    lines = [" ".join(parts[:3]), " ".join(parts[3:])]
    text = "\n\n".join(lines)

    assert covers(encode, text, text)
    assert covers(encode, text, f" {text}")
    for i, part in enumerate(parts):
        rest = " ".join(parts[i:3]) if i < 3 else " ".join(parts[i:])

        assert covers(encode, text, rest), part
        assert covers(encode, text, f" {rest}"), part


def test_hard_line_breaks(encode):
    """A text that was wrapped is also registered as one would say it."""
    words = " ".join(sentences(random.Random(7), 8)).split()
    wrapped = "\n".join(" ".join(words[i : i + 6]) for i in range(0, len(words), 6))

    assert covers(encode, wrapped, " ".join(words))
    assert covers(encode, wrapped, wrapped)
    assert not covers(encode, " ".join(words), wrapped)


@pytest.mark.parametrize("before", ["", " ", "So, ", "“", "Un"])
def test_from_the_middle_of_a_sentence(encode, before):
    """Wherever a run begins and whatever stood before, its last tokens are a registered run."""
    words = " ".join(sentences(random.Random(8), 3)).split()
    registered = grams(Tokenisations(encode, LIMIT).of(" ".join(words)))
    for start in range(1, len(words) - LIMIT):
        [[*said]] = encode([before + " ".join(words[start:])])
        [[*first]] = encode([before + words[start]])

        assert tuple(said[len(first) : len(first) + N]) in registered


def test_special_tokens_are_text(encode):
    """A document that spells an end of text does not become one."""
    plain, special = encode(["a<|end|>b", "<|end|>"])

    assert 1 < len(special)
    assert all(len(encode([piece])[0]) for piece in ("a", "b"))
    assert len(plain) > 3


def test_beginnings_of_few_tokens(encode):
    """A sentence whose first tokens are long is read far enough."""
    rest = "Across" + " " * 300 + "water and " * 9
    found = Tokenisations(encode, LIMIT).of(f"Nobody rowed. {rest}")
    [ids] = encode([rest.strip()])

    assert tuple(ids[:N]) in grams(found)
    assert all(len(ids) >= N for ids in found)


def test_a_short_text_is_there_with_both_beginnings(encode):
    """It is vetoed as a whole, so both have to be whole."""
    found = Tokenisations(encode, 64).of("Nobody rowed across.")

    assert [list(ids) for ids in found] == [
        *encode(["Nobody rowed across."]),
        *encode([" Nobody rowed across."]),
    ]


def test_only_new_texts_are_tokenised(encode):
    """What was used in the last round is kept, what was not is forgotten."""
    asked = []

    def noted(texts):
        asked.extend(texts)
        return encode(texts)

    tokenisations = Tokenisations(noted, LIMIT)
    first = tokenisations.of("Nobody rowed across.")
    tokenisations.forget_unused()
    asked.clear()

    assert tokenisations.of("Nobody rowed across.") is first
    assert not asked

    tokenisations.forget_unused()
    tokenisations.forget_unused()
    tokenisations.of("Nobody rowed across.")

    assert asked
