"""What a soak showed, as flat figures, and whether it was passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from server.audit.opening import audit_files
from server.audit.verify import verify
from server.bench.errors import ArmInvalid
from server.bench.servers import GuardedLaunch
from server.bench.soak.judge import ACCEPTABLE, Judged, Outcome
from server.bench.soak.kills import Killer
from server.bench.soak.reloads import Changes
from server.metrics.gateway import BYPASSES
from server.metrics.workers import CLOSED_SLOTS
from server.settings import Settings

MAX_GROWTH = 0.02
# Of the unmatched requests: the thresholds are calibrated for a rate of false alarms, not for none.
MAX_STEERED = 0.02
_SHOWN = 20


def soak_figures(
    judged: Sequence[Judged], changes: Changes, killer: Killer, facts: dict[str, Any]
) -> dict[str, Any]:
    """Requests by outcome, changes, deaths, and what the server counted of itself."""
    bad = [one for one in judged if one.outcome not in ACCEPTABLE]
    refusals = Counter(one.why for one in judged if one.outcome is Outcome.REFUSED)
    return {
        "requests": len(judged),
        "outcomes": counts(judged),
        "leaks": _number(judged, Outcome.LEAK),
        "wrong_answers": _number(judged, Outcome.WRONG),
        "unclean_requests": len(bad) - _number(judged, Outcome.LEAK, Outcome.WRONG),
        "not_acceptable": [describe(one) for one in bad[:_SHOWN]],
        "refusals": dict(sorted(refusals.items())),
        "longest_request_s": round(max((one.seconds for one in judged), default=0.0), 2),
        "by_shape": dict(sorted(Counter(one.shape for one in judged).items())),
        "by_manner": dict(sorted(Counter(one.manner for one in judged).items())),
        "policy_changes": changes.done,
        "policy_changes_interrupted": changes.interrupted,
        "policy_change_s_p50": round(median(changes.seconds), 2) if changes.seconds else None,
        "policy_changes_failed": changes.failed[:_SHOWN],
        "policy_asked": changes.asked,
        "policy_wrong": changes.wrong[:_SHOWN],
        "control_deaths": len(killer.control_seconds),
        "control_back_s_max": round(max(killer.control_seconds, default=0.0), 1),
        "api_deaths": len(killer.restarts),
        "api_back_s_max": round(max((w.seconds for w in killer.restarts), default=0.0), 1),
        "processes_left_by_api_deaths": killer.lingering,
        **facts,
    }


def failures(found: dict[str, Any]) -> list[str]:
    """What was not as it must be; empty: the soak is passed."""
    unmatched = sum(found["outcomes"].get(o, 0) for o in ("right", "wrong", "steered"))
    steered = found["outcomes"].get("steered", 0)
    quiet = set(found["quiet_outcomes"]) - {Outcome.RIGHT.value, Outcome.STEERED.value}
    checks = {
        f"{found['leaks']} leaks": found["leaks"] > 0,
        f"{found['wrong_answers']} wrong answers": found["wrong_answers"] > 0,
        f"{found['unclean_requests']} requests without a clean end": found["unclean_requests"] > 0,
        f"{steered} of {unmatched} unmatched requests steered": steered > MAX_STEERED * unmatched,
        f"in quiet: {', '.join(sorted(quiet))}": bool(quiet),
        "no policy was changed": not found["policy_changes"],
        "a process was not killed": not (found["control_deaths"] and found["api_deaths"]),
        "changes of policy failed": bool(found["policy_changes_failed"]),
        "answers not as the changed policy says": bool(found["policy_wrong"]),
        "processes of a killed server stayed": any(found["processes_left_by_api_deaths"]),
        "the audit is not whole": not found["audit_whole"],
        "slots were closed by faults": found["slots_closed_by_faults"] > 0,
        "requests passed unguarded": found["guard_bypasses"] > 0,
        "memory growth was not measured": found["memory_growth_max"] is None,
        f"memory grew by {found['memory_growth_max']}": (found["memory_growth_max"] or 0)
        >= MAX_GROWTH,
    }
    return [sentence for sentence, is_so in checks.items() if is_so]


def server_facts(launch: GuardedLaunch, state_dir: Path) -> dict[str, Any]:
    """What the server says of itself at the end: its counters since its last start, its audit.

    Raises:
        ArmInvalid: its metrics cannot be read.
    """
    samples = list(_samples(launch))
    audit = verify(audit_files(Settings(state_dir=state_dir)))
    return {
        "slots_closed_by_faults": sum(
            value
            for name, labels, value in samples
            if name == CLOSED_SLOTS and labels["reason"] != "nothing_left"
        ),
        "guard_bypasses": sum(value for name, _, value in samples if name == BYPASSES),
        "audit_records": audit.records,
        "audit_whole": audit.fault is None,
        "snapshots_kept": sum(1 for _ in (state_dir / "snapshots").iterdir()),
    }


def counts(judged: Iterable[Judged]) -> dict[str, int]:
    """How many of each outcome, the usual first."""
    found = Counter(one.outcome for one in judged)
    return {outcome.value: found[outcome] for outcome in Outcome if found[outcome]}


def describe(one: Judged) -> str:
    """A request's outcome in closed words and numbers."""
    return f"{one.outcome.value}: {one.shape}, {one.manner}, {one.seconds:.1f} s, {one.why}"


def _number(judged: Iterable[Judged], *outcomes: Outcome) -> int:
    return sum(one.outcome in outcomes for one in judged)


def _samples(launch: GuardedLaunch) -> Iterable[tuple[str, dict[str, str], float]]:
    try:
        response = httpx.get(f"{launch.base_url}/metrics", timeout=60, trust_env=False)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ArmInvalid(f"cannot read the server's metrics: {type(error).__name__}") from None
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
