"""Other ways to write a date: a birthday is told as well by `September 8` as by `08/09/1956`.

English months and the Gregorian calendar only; knows nothing of targets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_NUMERIC = re.compile(r"(\d{1,4})[/.\-](\d{1,2})[/.\-](\d{1,4})")
_NAME = re.compile(r"[A-Za-z]{3,}")
_DAY = re.compile(r"(?<!\d)\d{1,2}(?!\d)")
_YEAR = re.compile(r"(?<!\d)\d{4}(?!\d)")


@dataclass(frozen=True, slots=True)
class DateForms:
    """Spellings of one date.

    Attributes:
        days: its day and month in words, which a whole date in words contains.
        numeric: the whole date in digits.
        year: its year, or nothing.
    """

    days: tuple[str, ...]
    numeric: tuple[str, ...]
    year: str


def date_forms(text: str) -> DateForms | None:
    """The spellings of a date that names at least day and month; None for anything else.

    `08/09/1956` is read both as the 8th of September and as August 9.
    """
    readings = list(_readings(text))
    if not readings:
        return None
    years = {year for _, _, year in readings if year}
    return DateForms(
        tuple(dict.fromkeys(form for day, month, _ in readings for form in _days(day, month))),
        tuple(dict.fromkeys(form for reading in readings for form in _digits(*reading))),
        years.pop() if len(years) == 1 else "",
    )


def _readings(text: str) -> Iterator[tuple[int, int, str]]:
    """Day, month and year (or nothing) of each way to read a date."""
    numeric = _NUMERIC.fullmatch(text)
    if numeric is None:
        found = [_in_words(text)]
    else:
        first, middle, last = numeric.groups()
        if len(first) == 4:
            found = [(int(last), int(middle), first)]
        else:
            year = last if len(last) == 4 else ""
            found = [(int(first), int(middle), year), (int(middle), int(first), year)]
    yield from (date for date in found if 1 <= date[0] <= 31 and 1 <= date[1] <= 12)


def _in_words(text: str) -> tuple[int, int, str]:
    year = _YEAR.search(text)
    day = _DAY.search(text) or re.search(r"\d{1,2}(?=st|nd|rd|th)", text)
    month = 0
    for word in _NAME.findall(text):
        month = month or next(
            (i for i, name in enumerate(_MONTHS, 1) if name.lower().startswith(word.lower())), 0
        )
    return int(day.group()) if day else 0, month, year.group() if year else ""


def _days(day: int, month: int) -> Iterator[str]:
    name, nth = _MONTHS[month - 1], _ordinal(day)
    yield from (f"{name} {day}", f"{name} {nth}", f"{name} the {nth}")
    yield from (f"{day} {name}", f"{nth} {name}", f"{nth} of {name}", f"{nth} day of {name}")
    if len(name) > 4:
        yield from (f"{name[:3]} {day}", f"{day} {name[:3]}")


def _digits(day: int, month: int, year: str) -> Iterator[str]:
    if not year:
        return
    for separator in "/.-":
        for form in (f"{day:02}", f"{month:02}"), (str(day), str(month)):
            yield separator.join((*form, year))
            yield separator.join((*reversed(form), year))
        yield separator.join((year, f"{month:02}", f"{day:02}"))


def _ordinal(day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
