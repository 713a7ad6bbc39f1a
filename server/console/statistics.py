"""What a target did: the API's numbers, as tables with bars of one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from server.console.visit import Visit


@dataclass(frozen=True, slots=True)
class Bar:
    """A number and how long its bar is, in percent of the longest on the page."""

    label: str
    count: int
    percent: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Numbers of one kind."""

    caption: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is shown of a target's statistics; `told` is the API's answer."""

    told: dict[str, Any]
    charts: list[Chart]


async def show(visit: Visit) -> Response:
    """A target's statistics, which hold no forget text."""
    target_id = visit.id("target_id")
    return visit.page("statistics.html", id=target_id, statistics=await statistics(visit))


async def statistics(visit: Visit) -> Statistics:
    """The statistics of the target that the address names."""
    told = (await visit.api.get("targets", visit.id("target_id"), "statistics")).body
    return Statistics(told, _charts(told["prompts"], told["answers"]))


def _charts(prompts: dict[str, int], answers: dict[str, int]) -> list[Chart]:
    effects = ("refused", "steered", "would_refuse", "would_steer")
    # A prompt in which an enforced target was found is steered or refused.
    # What a node tells need not add up.
    by_another = max(0, prompts["matched"] - sum(prompts[effect] for effect in effects))
    kinds = {
        f"What followed, of {_prompts(prompts['matched'])} in which it was found": {
            "refused": prompts["refused"],
            "steered": prompts["steered"],
            "refused because of another target": by_another,
            "would have been refused, only observed": prompts["would_refuse"],
            "would have been steered, only observed": prompts["would_steer"],
        },
        "What found it; a prompt may count in several": {
            "a name": prompts["by_alias"],
            "likeness to its examples or documents": prompts["by_similarity"],
            "its scope, which is every request": prompts["by_scope"],
        },
        "Answers": {
            "ended before a phrase": answers["cut_for_phrase"],
            "ended before a name": answers["cut_for_name"],
            "ended for a passage of its documents": answers["cut_for_provenance"],
            "would have been ended, only observed": answers["would_cut"],
        },
    }
    longest = max(1, *(count for counts in kinds.values() for count in counts.values()))
    return [
        Chart(kind, [Bar(label, count, 100 * count / longest) for label, count in counts.items()])
        for kind, counts in kinds.items()
    ]


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'}"
