"""`GET /admin/v1/targets/{id}/statistics`: what a target did and what it costs."""

from __future__ import annotations

from fastapi import APIRouter

from server.admin_parts import Here, OwnAuditor
from server.parameters import PathId
from server.statistics.schemas import TargetStatistics

statistics_router = APIRouter(tags=["targets"])


@statistics_router.get("/targets/{target_id:id}/statistics")
def target_statistics(target_id: PathId, here: Here, own: OwnAuditor) -> TargetStatistics:
    """How often a target was detected, what followed or would have, and the time it costs."""
    record, _ = own.store.target(target_id)
    statistics = here.store.statistics()
    counts = statistics.of([target_id])[target_id]
    return TargetStatistics.of(target_id, record.created_at, counts, statistics.requests())
