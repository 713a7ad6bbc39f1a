"""Which questions describe whom they ask about."""

from __future__ import annotations

import time

import pytest

from detectors.descriptions import MAX_CHARACTERS, describes


@pytest.mark.parametrize(
    "text",
    [
        "When was the author of 'The Tin Harbour' born?",
        "Which prize did the actress who played Mrs Holm win?",
        "Where did the renowned Canadian-American singer known for 'Grey' grow up?",
        "What did the educator and scholar, commonly known as the Sage, teach?",
        "WHERE DOES THE ＡＵＴＨＯＲ OF\u00a0'Grey' LIVE?",
    ],
)
def test_descriptions_are_found(text: str) -> None:
    """However they are written."""
    assert describes(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Where was Orla Fenwick born?",
        "Who is the director of 'The Tin Harbour'?",
        "Ida Moss was the mother of Per Berg.",
        "What is the number of books on the shelf?",
        "How do I boil rice?",
        "The longest river in Norway?",
        "Who wrote 'The Catcher in the Rye'?",
        "Who are some of the characters in Orla Fenwick's “The Painter of Tin”?",
        "The author of 'The Tin Harbour', Orla Fenwick, lived in which country?",
    ],
)
def test_names_and_what_is_said_of_them_are_no_descriptions(text: str) -> None:
    """Behind a copula a description is what is asked for, or said of who was named; a title or what
    has its name beside it describes nobody."""
    assert not describes(text)


def test_a_long_text_does_not_count() -> None:
    """It holds such a phrase by chance; nor does any text take long."""
    phrase = "the author of it "
    begun = time.process_time()

    assert describes((phrase * 50)[:MAX_CHARACTERS])
    assert not describes(phrase * 50)
    for text in ("the " * 120, "the a" * 96, "the author " * 43, "the " + "er" * 238):
        describes(text)
    assert time.process_time() - begun < 10
