"""What the semantic filter compiles: near words and other forms, and never an ordinary word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.extraction import extract
from detectors.lexicon import is_frame_word, is_function_word, zipf
from detectors.targets import Example, ForgetTarget, Phrase
from guard.automaton import Tables
from guard.compiler import compile_policy
from guard.semantic import MARGIN, Likeness, expand
from guard.semantic_forms import cut, cyrillic, inflections, romanisations
from guard.semantic_meanings import Meanings
from guard.semantic_words import VocabularyWords, embed_words
from guard.snapshot import load_snapshot
from guard.token_filter import TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary

WORDS = (
    *("astronaut", "cosmonaut", "astronomy", "rocket", "male", "female", "doctor", "physician"),
    *("novelist", "author", "book", "house", "the", "people", "engineering", "xqzt"),
)
VOCABULARY = Vocabulary(
    [None, *(bytes([b]) for b in range(256))]
    + [piece for word in WORDS for piece in (word.encode(), f" {word}".encode())]
)
# Words beside the first are at this cosine to it.
NEAR = {
    "astronaut": {"cosmonaut": 0.9, "astronomy": 0.65, "rocket": 0.68, "people": 0.95},
    "physician": {"doctor": 0.9},
}


class Encoder:
    """Every word has its own axis; near ones lean towards their word's."""

    id = "lean"

    def __init__(self):
        self.axes = {}
        self.asked = []

    dimension = 64

    def encode(self, texts):
        self.asked += texts
        return np.array([self.vector(t) for t in texts], np.float32).reshape(-1, self.dimension)

    def vector(self, text):
        vector = np.zeros(self.dimension)
        axis = self.axes.setdefault(text, len(self.axes) % (self.dimension - 1))
        for word, others in NEAR.items():
            if text in others:
                vector[self.axes.setdefault(word, len(self.axes))] = others[text]
                vector[axis] = (1 - others[text] ** 2) ** 0.5
                return vector
        vector[axis] = 1
        return vector


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def meanings(encoder, tmp_path):
    words = VocabularyWords.of(VOCABULARY)
    return Meanings(words, embed_words(words.words, encoder, tmp_path))


def item_target(prompt="What was she?", answer="She was an astronaut.", **fields):
    return ForgetTarget("t", examples=(Example(prompt, answer),), **fields)


def expanded(target, meanings, encoder):
    return expand([target], [extract(target)], meanings, encoder)


def texts(forms):
    return {form.text for form in forms}


def test_vocabulary_words_are_known_and_telling():
    """Pieces, function and frame words are left out; a word has its tokens, spaced and bare."""
    words = VocabularyWords.of(VOCABULARY)

    assert "astronaut" in words.words
    assert not {"the", "xqzt"} & set(words.words)

    tokens = words.tokens(words.words.index("doctor"))

    assert [b"doctor", b" doctor"] == [VOCABULARY.raw(t) for t in tokens]


def test_embeddings_are_made_once_and_go_on_where_they_stopped(encoder, tmp_path):
    """A second time nothing is encoded; a damaged chunk is made again; the result is the same."""
    words = tuple(f"word{i}" for i in range(2500))
    calls = []
    with pytest.raises(InterruptedError):
        embed_words(words, encoder, tmp_path, _stop_after(2, calls))

    encoder.asked.clear()
    first = embed_words(words, encoder, tmp_path)

    assert len(encoder.asked) == 2500 - 2048
    assert [(0, 2500), (1024, 2500), (2048, 2500)] == calls

    encoder.asked.clear()
    next((tmp_path / "words").rglob("00001.npy")).write_bytes(b"damaged")
    second = embed_words(words, encoder, tmp_path)

    assert len(encoder.asked) == 1024
    assert np.array_equal(first, second)


def _stop_after(number, calls):
    def progress(done, total):
        calls.append((done, total))
        if len(calls) > number:
            raise InterruptedError

    return progress


def test_near_words_are_vetoed_and_less_near_ones_penalised(meanings, encoder):
    """The item says astronaut: a near-synonym and a relative go, a farther word gets dearer."""
    found = expanded(item_target(), meanings, encoder)
    forms = {form.text: form.likeness for form in found.forms[1]}

    assert forms["cosmonaut"] is Likeness.MEANING
    assert forms["astronomy"] is Likeness.INFLECTION
    assert not {"rocket", "doctor", "house", "astronaut"} & forms.keys()

    tokens, amounts = found.penalties.of([1])
    penalised = {VOCABULARY.raw(t).strip().decode() for t in tokens.tolist()}

    assert penalised == {"rocket", "astronomy"}
    assert (amounts > 0).all()


def test_delta_decides(meanings, encoder):
    """A stricter delta vetoes less; 1 turns the filter off for the target."""
    strict = expanded(item_target(delta=0.92), meanings, encoder)
    off = expanded(item_target(delta=1.0), meanings, encoder)

    assert "cosmonaut" not in texts(strict.forms[1])
    assert ((), ()) == off.forms
    assert not len(off.penalties.token)


def test_what_the_prompt_says_stays_sayable(meanings, encoder):
    """A word of the item's own question is neither vetoed nor penalised."""
    target = item_target("Was the cosmonaut in a rocket?")
    found = expanded(target, meanings, encoder)

    assert "cosmonaut" not in texts(found.forms[1])
    assert "rocket" not in {
        VOCABULARY.raw(t).strip().decode() for t in found.penalties.of([1])[0].tolist()
    }


def test_common_words_are_never_taken_for_a_whole_target(meanings, encoder):
    """For the target as a whole only rare words go, however near they are."""
    found = expanded(ForgetTarget("t", phrases=(Phrase("physician"),)), meanings, encoder)

    assert "doctor" not in texts(found.forms[0])
    assert not len(found.penalties.token)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), st.floats(0.5, 1))
def test_ordinary_words_are_never_vetoed(words, delta):
    """Whatever is forbidden, no form of one word is a function or frame word, or common if wide."""
    encoder = Encoder()
    vocabulary_words = VocabularyWords.of(VOCABULARY)
    embeddings = encoder.encode(vocabulary_words.words).astype(np.float16)
    target = ForgetTarget(
        "t",
        phrases=tuple(Phrase(word) for word in words),
        examples=(Example("What?", f"It was {' '.join(words)}."),),
        delta=delta,
    )
    found = expand([target], [extract(target)], Meanings(vocabulary_words, embeddings), encoder)
    for number, unit in enumerate(found.forms):
        for form in unit:
            if form.likeness is Likeness.BEGINNING:
                continue
            assert not is_function_word(form.text)
            assert not is_frame_word(form.text)
            if number == 0:
                assert zipf(form.text) < 4


def test_forms_by_rule():
    """Inflections are known words; a name has other spellings; a stem needs its other words."""
    assert {"astronauts"} <= inflections("astronaut")
    assert "engineered" in inflections("engineer")
    assert "al kuwaiti" in romanisations("al-kuwaiti")
    assert "muhamad" in romanisations("muhammad")
    assert "калкидан абера" in romanisations("kalkidan abera")
    assert "шостак" == cyrillic("shostak")
    assert "citi hall" not in romanisations("city hall")
    assert "kalkidan aber" == cut("kalkidan abera")
    assert cut("engineer") is None
    assert cut("room 12") is None
    assert cut("new age") is None


def test_a_begun_name_cannot_end_otherwise(encoder, meanings, tmp_path):
    """Through the snapshot: behind a name's first word the stem of its last one is forbidden."""
    target = ForgetTarget("t", aliases=("Kalkidan Abera",))
    compiled = _compile([target], encoder, meanings, tmp_path)
    snapshot = load_snapshot(tmp_path, compiled.digest)
    tables = Tables.load(snapshot.arrays("automaton"))
    token_filter = TokenFilter(tables, Units.load(snapshot.arrays("units")), VOCABULARY)
    active = token_filter.sets.acquire((0,), ())

    def may_end(text):
        *before, last = [1 + byte for byte in text.encode()]
        return not token_filter.completes(token_filter.seed([], before), active, last)

    assert may_end("Kalkidan Abe")
    assert not may_end("Kalkidan Aber")
    assert may_end("Some Aber")
    assert not may_end("Калкидан Абера")


def test_the_operator_sees_what_is_vetoed(encoder, meanings, tmp_path):
    """The report lists forms with reasons; without the filter it says nothing of it."""
    compiled = _compile([item_target(delta=0.8)], encoder, meanings, tmp_path)
    report = compiled.reports["t"]["semantic"]

    assert report["delta"] == 0.8
    assert {"text": "cosmonaut", "of": "astronaut", "reason": "meaning"} in report["forms"]
    assert "semantic" not in _compile([item_target()], encoder, None, tmp_path).reports["t"]


def test_compiling_twice_gives_the_same_policy(encoder, meanings, tmp_path):
    """The same targets and words give the same digest; without the filter it is another one."""
    first = _compile([item_target()], encoder, meanings, tmp_path)
    second = _compile([item_target()], encoder, meanings, tmp_path)
    without = _compile([item_target()], encoder, None, tmp_path)

    assert first.digest == second.digest != without.digest


def test_the_margin_is_below_every_delta():
    """A target's least delta less the margin is still what neighbours are kept for."""
    from guard.semantic_meanings import FLOOR

    assert pytest.approx(0.5 - MARGIN) == FLOOR


def _compile(targets, encoder, meanings, root):
    return compile_policy(
        targets,
        encoder=encoder,
        vocabulary=VOCABULARY,
        snapshots=root,
        alpha=0.1,
        progress=lambda stage, fraction: None,
        meanings=meanings,
    )
