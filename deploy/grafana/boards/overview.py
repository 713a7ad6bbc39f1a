"""The whole on one page."""

from __future__ import annotations

from board import Board
from panels import CHOSEN, graph, mean, number, quantile, rate

# Reading the whole prompt, and looking through the answer while it passes.
_ADDED = 'stage=~"parse|screen|shield"'
_SHIELD = "lethegate_shield_blocks_total"

OVERVIEW = Board(
    "overview",
    "Lethegate / Overview",
    "Is the guard in force, what does it do, and what does it cost?",
    (
        number(
            "Policy generation",
            "Lowest that a server applies.",
            f"min(lethegate_policy_generation{{{CHOSEN}}})",
        ),
        number(
            "Active targets",
            "Targets that rule everywhere.",
            'max(lethegate_policy_targets{status="active"})',
        ),
        number("Requests", "Screened requests.", rate("lethegate_requests_total"), "reqps"),
        number(
            "Steered or refused",
            "Share of the screened requests.",
            rate("lethegate_requests_total", where='verdict!="allow"')
            + " / "
            + rate("lethegate_requests_total"),
            "percentunit",
        ),
        number(
            "Failed by the guard",
            "Requests of the last hour without a decision: a 503, or served unguarded.",
            f'sum(increase(lethegate_guard_failures_total{{{CHOSEN}, reason!="engine"}}[1h]))',
        ),
        number(
            "Alerts",
            "Alerts that fire now.",
            'count(ALERTS{alertstate="firing", alertname=~"Lethegate.*"}) or vector(0)',
        ),
        graph(
            "Requests by verdict",
            "Events per second.",
            {"{{verdict}}": rate("lethegate_requests_total", "verdict")},
            "reqps",
            stacked=True,
        ),
        graph(
            "Answers ended by the shield",
            "By what was found: a phrase or a name. `other` is an answer that could not be read.",
            {"{{layer}}": rate(_SHIELD, "layer")},
            "ops",
            stacked=True,
        ),
        graph(
            "Time added to a request",
            "Mean: reading it, screening it, and looking through its answer.",
            {"{{stage}}": mean("lethegate_stage_seconds", "stage", where=_ADDED)},
            "s",
            stacked=True,
        ),
        graph(
            "Time to the first token",
            "vLLM's own figure, from the request's arrival in the engine's server.",
            {
                "median": quantile(0.5, "vllm:time_to_first_token_seconds"),
                "99 %": quantile(0.99, "vllm:time_to_first_token_seconds"),
            },
            "s",
        ),
        graph(
            "Generated tokens",
            "All requests together, per second.",
            {"tokens": rate("vllm:generation_tokens_total")},
        ),
        graph(
            "Requests in the engine",
            "Running and waiting.",
            {
                "running": f"sum(vllm:num_requests_running{{{CHOSEN}}})",
                "waiting": f"sum(vllm:num_requests_waiting{{{CHOSEN}}})",
            },
        ),
    ),
)
