"""What should be at zero."""

from __future__ import annotations

from board import Board
from panels import CHOSEN, graph, rate

_SHIELD = "lethegate_shield_blocks_total"

FAULTS = Board(
    "faults",
    "Lethegate / Faults",
    "Everything here should be at zero. RUNBOOK.md says what to do where it is not.",
    (
        graph(
            "Requests that the guard or the engine failed",
            "Answered with 503, unless the guard failed and fail_open is set.",
            {"{{reason}}": rate("lethegate_guard_failures_total", "reason")},
            "reqps",
            stacked=True,
        ),
        graph(
            "Requests served unguarded",
            "Only with fail_open.",
            {"{{reason}}": rate("lethegate_guard_bypasses_total", "reason")},
            "reqps",
            stacked=True,
        ),
        graph(
            "Slots closed in the worker",
            "Answers that were ended because the worker could not steer them.",
            {"{{reason}}": rate("lethegate_closed_slots_total", "reason")},
            "ops",
            stacked=True,
        ),
        graph(
            "Answers that the shield could not read",
            "They were ended.",
            {"{{surface}}": rate(_SHIELD, "surface", where='layer="other"')},
            "ops",
            stacked=True,
        ),
        graph(
            "Policies that did not come into force",
            "Snapshots, corpora and keys that were not loaded, failed jobs, rollbacks, per second.",
            {
                "not loaded": rate("lethegate_snapshot_load_failures_total"),
                "corpora not loaded": rate("lethegate_corpora_load_failures_total"),
                "keys not loaded": rate("lethegate_keys_load_failures_total"),
                "failed jobs": 'sum(rate(lethegate_jobs_total{state="failed"}[$__rate_interval]))',
                "rollbacks": "sum(rate(lethegate_policy_rollbacks_total[$__rate_interval]))",
            },
            "ops",
        ),
        graph(
            "Audit",
            "Records written, attempts to write that failed, and records given up.",
            {
                "written": rate("lethegate_audit_records_total"),
                "failed": rate("lethegate_audit_write_failures_total"),
                "lost": rate("lethegate_audit_lost_total"),
            },
            "ops",
        ),
        graph(
            "Storage",
            "What the control process could not read or write: the store, other files.",
            {"{{part}}": rate("lethegate_storage_failures_total", "part")},
            "ops",
            width=8,
        ),
        graph(
            "Engine without an answer",
            "For how long it has not ended a step; past engine_stall_seconds it counts as hung.",
            {"{{instance}}": f"max by (instance) (lethegate_engine_silent_seconds{{{CHOSEN}}})"},
            "s",
            width=8,
        ),
        graph(
            "Reachable",
            "1 where the last scrape was answered.",
            {"{{job}} {{instance}}": 'up{job=~"lethegate.*"}'},
            width=8,
        ),
    ),
)
