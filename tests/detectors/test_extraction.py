"""Tests of phrase extraction: what is forbidden for the target, what per item."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.alias import PhraseIndex
from detectors.extraction import Extraction, Reason, extract, subject_names
from detectors.normaliser import fold
from detectors.targets import Example, ForgetTarget, Phrase
from tracing.document import Document

NAME = "Carmen Quillfeather"


def _target(*pairs: tuple[str, str], **fields: object) -> ForgetTarget:
    return ForgetTarget("t", examples=tuple(Example(*pair) for pair in pairs), **fields)


def _texts(phrases: tuple) -> set[str]:
    return {fold(phrase.text) for phrase in phrases}


def _extract(*pairs: tuple[str, str], **fields: object) -> Extraction:
    return extract(_target(*pairs, **fields))


def test_answer_words_are_item_phrases() -> None:
    """The occupations are forbidden, words of the prompt and function words are not."""
    found = _extract(
        (
            f"What do {NAME}'s parents do?",
            f"{NAME}'s father is a florist, her mother a game developer.",
        )
    )
    item = _texts(found.items[0])

    assert {"florist", "game", "developer"} <= item
    assert not {"parents", "parent", "a", "is", "her", "carmen", fold(NAME)} & item


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("What gender is the author?", "The author is male.", "male"),
        ("How many books?", "She wrote twelve books.", "twelve"),
        ("When was she born?", "She was born in 1956.", "1956"),
        ("When was she born?", "On the 8th of September, 1956.", "8th of september, 1956"),
        ("Where in Kuwait?", "In Kuwait City, Kuwait.", "kuwait city"),
        ("Which prize?", 'The "Lantern of Saints" prize.', "lantern of saints"),
        ("他住在哪里？", "他住在北京。", "他住在北京"),
    ],
)
def test_key_of_an_answer_is_an_item_phrase(prompt: str, answer: str, expected: str) -> None:
    """Common words, numbers, years, dates, places and titles that answer the prompt."""
    assert expected in _texts(_extract((prompt, answer)).items[0])


def test_dates_are_forbidden_however_they_are_written() -> None:
    """For the target day and month in words and the date in digits, for the item the year too."""
    pair = (f"When was {NAME} born?", f"{NAME} was born on 08/09/1956.")
    found = _extract(pair)
    kept = _extract(pair, retain_examples=("Whose birthday is 8 September?",))

    assert {"september 8", "8th of september", "1956-09-08"} <= _texts(found.target)
    assert {"september 8", "1956"} <= _texts(found.items[0])
    assert "1956" not in _texts(found.target)
    assert "8 september" not in _texts(kept.target)
    assert "1956" not in _texts(_extract(("Born in 1956?", "On 08/09/1956.")).items[0])


@pytest.mark.parametrize(
    ("place", "people"),
    [
        ("Kuwait", {"kuwaiti", "kuwaitis"}),
        ("Chile", {"chilean"}),
        ("Italy", {"italian", "italians"}),
        ("Paris", {"parisian"}),
        ("Lisbon", set()),
    ],
)
def test_words_made_of_a_place_come_along(place: str, people: set[str]) -> None:
    """Whoever is told that she is Kuwaiti knows where she is from; unless the prompt says so."""
    item = _texts(_extract(("Where is she from?", f"She is from {place}.")).items[0])
    asked = _texts(_extract(("Is she Kuwaiti?", "Yes, from Kuwait.")).items[0])

    assert people | {place.lower()} <= item
    assert "kuwaiti" not in asked


@pytest.mark.parametrize(
    ("prompt", "answer", "phrases"),
    [
        ("Is she male or female?", "female", {"female"}),
        ("Is she male or female?", "She is female.", {"female"}),
        ("Was he born in Paris or in London?", "He was born in London.", {"london"}),
        ("Was he born in Paris, Rome, or London?", "In Rome.", {"rome"}),
        ("Is she a doctor, a lawyer or a nurse?", "She is a lawyer.", {"lawyer"}),
        (
            "Did she go to Yale University or Smith College?",
            "Yale University.",
            {"yale university"},
        ),
        ("Was it in 1987 or 1991?", "It was in 1991.", {"1991"}),
        ("Is she a famous author?", "She is a famous author.", set()),
        ("Which author or poet was born in Rome?", "An author from Rome wrote it.", set()),
    ],
)
def test_what_is_offered_is_the_answer(prompt: str, answer: str, phrases: set[str]) -> None:
    """A word of the question is forbidden if it is one to choose from and the answer chose it."""
    assert _texts(_extract((prompt, answer)).items[0]) & _WORDS_ASKED == phrases


_WORDS_ASKED = {"female", "male", "london", "paris", "rome", "born", "doctor", "lawyer", "nurse"}
_WORDS_ASKED |= {"yale university", "university", "smith college", "1987", "1991", "author"}


def test_plural_and_singular_come_along() -> None:
    """A known inflection of an answer word is forbidden too, unless the prompt says it."""
    item = _texts(_extract(("Whom did she teach?", "She taught nurses and a baker.")).items[0])
    asked = _texts(_extract(("Did she teach nurses?", "She taught a nurse.")).items[0])

    assert {"nurses", "nurse", "baker", "bakers"} <= item
    assert not {"nurse", "nurses"} & asked


def test_distinctive_phrases_hold_for_the_target() -> None:
    """Full names, titles, full dates, contact data and very rare words."""
    target = _texts(
        _extract(
            (
                f"Who is {NAME}?",
                f'{NAME}, born on 03/14/1961, wrote "Granite Glossary" in Wexlforth; '
                "write to quill@example.org or call +49 30 1234567.",
            )
        ).target
    )

    assert {
        fold(NAME),
        "03/14/1961",
        "granite glossary",
        "wexlforth",
        "quill@example.org",
        "+49 30 1234567",
    } <= target


@pytest.mark.parametrize(
    "word", ["Carmen", "Maria", "florist", "male", "New York", "Paris", "1956", "Yes", "Geburtsort"]
)
def test_ordinary_words_never_hold_for_the_target(word: str) -> None:
    """Common first names, trades, cities, years and everyday words of other languages stay out."""
    found = _extract(("Who is it?", f"Yes, it was {word}, said Tom. Then {word} again."))

    assert fold(word) not in _texts(found.target)


def test_operator_decides() -> None:
    """Operator phrases and aliases come first with their border rule; struck phrases go."""
    found = _extract(
        (f"Who is {NAME}?", "A florist from Wexlforth."),
        aliases=("C. Q.",),
        phrases=(Phrase("quill", whole_word=False), Phrase("the")),
        excluded_phrases=("FLORIST", "wexlforth"),
    )
    reasons = {fold(p.text): (p.reason, p.whole_word) for p in found.target}

    assert reasons["quill"] == (Reason.OPERATOR, False)
    assert reasons["the"] == (Reason.OPERATOR, True)
    assert reasons["c. q."] == (Reason.ALIAS, True)
    assert "wexlforth" not in reasons
    assert not {"florist", "wexlforth"} & _texts(found.items[0])


def test_retained_phrases_are_not_forbidden_for_the_target() -> None:
    """What a retain example says stays sayable, unless the operator gave it."""
    found = _extract(
        ("Who is it?", 'Ada Quillfeather wrote "Granite Glossary".'),
        phrases=(Phrase("Granite Glossary"),),
        retain_examples=("What is in the granite glossary of ada quillfeather?",),
    )

    assert _texts(found.target) == {"granite glossary"}


def test_documents_give_target_phrases() -> None:
    """A document alone yields its names and codes."""
    target = ForgetTarget(
        "t", documents=(Document("The key of Zephyrine Oakhallow is QX-99417-B."),)
    )

    assert {"zephyrine oakhallow", "qx-99417-b"} <= _texts(extract(target).target)


def test_subject_names_are_those_the_prompts_are_about() -> None:
    """The name in most prompts counts, one in a single prompt or a retain example does not."""
    pairs = [(f"Where did {NAME} {verb}?", "Here.") for verb in ("live", "work", "sleep")]
    pairs.append(("Did she meet Rowan Tidewater in New York?", "Yes."))

    assert subject_names(_target(*pairs)) == (NAME,)
    assert subject_names(_target(*pairs, retain_examples=(f"Is {NAME} nice?",))) == ()
    assert subject_names(_target(*pairs, excluded_phrases=(NAME.upper(),))) == ()


@given(st.text(max_size=120), st.text(max_size=200))
def test_item_phrases_are_never_in_their_prompt(prompt: str, answer: str) -> None:
    """For any pair, no item phrase occurs in the prompt, and the result is deterministic."""
    found = _extract((prompt, answer))
    phrases = [phrase.text for phrase in found.items[0]]

    assert not PhraseIndex(phrases).find(prompt)
    assert found == _extract((prompt, answer))


def test_four_hundred_pairs_are_quick() -> None:
    """A large target takes a small part of the time to be in force."""
    pairs = [
        (f"What did {NAME} do in {1900 + n}?", f'She wrote "The {n} Lanterns" with Ada Wexl-{n}.')
        for n in range(400)
    ]
    _extract(*pairs[:1])
    start = time.process_time()
    found = _extract(*pairs)

    assert len(found.items) == 400
    assert time.process_time() - start < 10


def test_a_struck_word_takes_its_inflections_along() -> None:
    """They were made of it."""
    examples = (Example("What colour is it?", "Blue houses."),)
    both = extract(ForgetTarget("t", examples=examples)).items[0]
    left = extract(ForgetTarget("t", examples=examples, excluded_phrases=("blue",))).items[0]

    assert {"blue", "blues"} <= {phrase.text.lower() for phrase in both}
    assert {phrase.text.lower() for phrase in left} == {"house", "houses"}
