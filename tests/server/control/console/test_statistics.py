"""What a target did, on its page, on one of its own and in the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.database import Database
from server.statistics.counts import RequestCounts, TargetCounts
from server.statistics.store import StatisticsStore
from server.statistics.tally import Tallied

COUNTS = TargetCounts(
    matched=40,
    alias=30,
    similarity=25,
    refused=10,
    steered=8,
    would_refuse=2,
    would_steer=16,
    cut_phrase=3,
    cut_name=2,
    cut_provenance=1,
    would_cut=5,
    prevented_steps=77,
    screen_seconds=0.3,
    shield_seconds=0.1,
    last_matched_at=1_700_000_000.0,
)
ADA = {"id": "ada", "examples": [{"prompt": "Where was Ada born?", "answer": "In Port Sorrel."}]}


@pytest.fixture
def counted(in_force: Callable[..., None], database: Database) -> None:
    """A target with statistics, and one without."""
    in_force(ADA, {**ADA, "id": "bob"})
    tallied = Tallied(RequestCounts(requests=90, screen_seconds=1.6), {"ada": COUNTS})
    StatisticsStore(database).take("a-gateway", tallied)


def _told(visitor: Any) -> str:
    return " ".join(visitor.page.text.split())


def test_on_the_page_of_a_target(visit: Any, counted: None) -> None:
    """Every number with its name, and a bar as long as it is large."""
    visitor = visit()
    visitor.get("/console/targets/ada")
    told = _told(visitor)
    bars = [float(rect["width"]) for rect in visitor.page.all("rect")]

    for words in (
        "What followed, of 40 prompts in which it was found",
        "refused 10",
        "steered 8",
        "refused because of another target 4",
        "would have been refused, only observed 2",
        "would have been steered, only observed 16",
        "a name 30",
        "likeness to its examples or documents 25",
        "its scope, which is every request 0",
        "ended before a phrase 3",
        "ended before a name 2",
        "ended for a passage of its documents 1",
        "would have been ended, only observed 5",
        "Found last2023-11-14 22:13:20 UTC",
        "Steps of answers in which a phrase was vetoed77",
        "Time added to a request in which it was found10.0 ms",
        "Its share of the time added to all requests25.00 %",
    ):
        assert words in told
    longest = [100 * count / 30 for count in (10, 8, 4, 2, 16, 30, 25, 0, 3, 2, 1, 5)]
    assert bars == pytest.approx(longest, abs=0.001)
    assert all(svg["aria-hidden"] == "true" for svg in visitor.page.all("svg"))


def test_a_target_that_was_never_found(visit: Any, counted: None) -> None:
    """Says so, without empty charts."""
    visitor = visit()
    visitor.get("/console/targets/bob")

    assert "It was found in no prompt and in no answer since 20" in _told(visitor)
    assert not visitor.page.all("svg")


def test_readers_have_a_page_of_numbers(visit: Any, counted: None) -> None:
    """From the list; without the texts, which the target's own page has."""
    reader = visit("auditor-key")
    reader.get("/console/targets")
    path = "/console/targets/ada/statistics"
    [link] = [a for a in reader.page.all("a") if a["href"] == path]

    assert link["aria-label"] == "40: statistics of ada"
    assert reader.get(path).status_code == 200
    assert "refused 10" in _told(reader)
    assert "Sorrel" not in reader.answer.text
    assert not [a for a in reader.page.all("a") if a["href"] == "/console/targets/ada"]
    assert reader.get("/console/targets/eve/statistics").status_code == 404


def test_the_list_has_the_sums(visit: Any, counted: None) -> None:
    """How often each was found, and when last."""
    visitor = visit()
    visitor.get("/console/targets")

    assert "matched 40 2023-11-14 22:13:20 UTC" in _told(visitor)
    assert "matched 0 –" in _told(visitor)
