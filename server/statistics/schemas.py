"""The statistics as the admin API shows them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from server.records import utc
from server.statistics.counts import RequestCounts, TargetCounts


class PromptStatistics(BaseModel):
    """Prompts in which the target was detected; what found it, of which several may in one."""

    matched: int
    refused: int
    steered: int
    would_refuse: int
    would_steer: int
    by_alias: int
    by_similarity: int
    by_scope: int


class AnswerStatistics(BaseModel):
    """Answers ended for what is the target's, or that would have been in observe mode.

    `prevented_steps`: decode steps in which a phrase that had begun could not be completed.
    """

    cut: int
    cut_for_phrase: int
    cut_for_name: int
    cut_for_provenance: int
    would_cut: int
    prevented_steps: int


class CostStatistics(BaseModel):
    """Time added to requests in which the target was detected, its part where several were.

    `mean_added_seconds` is over those requests. `share`, at the most 1, is of the time added to all
    requests, the undetected ones among them; null before there were any.
    """

    screen_seconds: float
    shield_seconds: float
    mean_added_seconds: float | None
    share: float | None


class TargetStatistics(BaseModel):
    """What gateways counted of one target since it was registered; a few seconds old."""

    id: str
    since: datetime
    last_matched_at: datetime | None
    prompts: PromptStatistics
    answers: AnswerStatistics
    cost: CostStatistics

    @classmethod
    def of(
        cls, target_id: str, since: float, counts: TargetCounts, requests: RequestCounts
    ) -> TargetStatistics:
        """From the numbers of the target and of all requests."""
        matched = counts.matched
        return cls(
            id=target_id,
            since=utc(since),
            last_matched_at=utc(counts.last_matched_at) if counts.last_matched_at else None,
            prompts=PromptStatistics(
                matched=matched,
                refused=counts.refused,
                steered=counts.steered,
                would_refuse=counts.would_refuse,
                would_steer=counts.would_steer,
                by_alias=counts.alias,
                by_similarity=counts.similarity,
                by_scope=counts.always,
            ),
            answers=AnswerStatistics(
                cut=counts.cut,
                cut_for_phrase=counts.cut_phrase,
                cut_for_name=counts.cut_name,
                cut_for_provenance=counts.cut_provenance,
                would_cut=counts.would_cut,
                prevented_steps=counts.prevented_steps,
            ),
            cost=CostStatistics(
                screen_seconds=counts.screen_seconds,
                shield_seconds=counts.shield_seconds,
                mean_added_seconds=counts.seconds / matched if matched else None,
                share=min(1.0, counts.seconds / requests.seconds) if requests.seconds else None,
            ),
        )
