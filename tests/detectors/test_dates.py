"""Tests of the spellings of dates."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.dates import date_forms

NAMES = ("%B %-d, %Y", "%-d %B %Y", "%b %-d, %Y", "%-d of %B, %Y", "%Y-%m-%d")


@given(st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31)), st.sampled_from(NAMES))
def test_a_date_is_read_whatever_its_form(date: datetime.date, form: str) -> None:
    """Every unambiguous form gives the same spellings, among them those of other forms."""
    forms = date_forms(date.strftime(form))

    assert forms == date_forms(date.isoformat())
    assert forms is not None
    assert f"{date:%Y}" == forms.year
    assert {f"{date:%B} {date.day}", f"{date.day} {date:%B}"} <= set(forms.days)
    assert {f"{date:%d/%m/%Y}", f"{date:%m/%d/%Y}", date.isoformat()} <= set(forms.numeric)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8th of September, 1956", {"September 8", "September the 8th", "8 Sep"}),
        ("08/09/1956", {"8th of September", "August 9"}),
        ("May 1st", {"1st of May", "May 1"}),
        ("the 22nd day of Feb. 1985", {"22 February"}),
    ],
)
def test_day_and_month_are_spelled(text: str, expected: set[str]) -> None:
    """In words, whichever way the date was written; both readings of an ambiguous one."""
    forms = date_forms(text)

    assert forms is not None
    assert expected <= set(forms.days)


@pytest.mark.parametrize("text", ["September 1956", "1956", "31/31/1956", "99.12.2001", "", "may"])
def test_other_texts_are_no_dates(text: str) -> None:
    """Without a day and a month there is nothing to spell."""
    assert date_forms(text) is None
