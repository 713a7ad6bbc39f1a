"""The dashboards: what is shown, why, and by which query. `generate.py` writes them as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import stat, timeseries
from panels import CHOSEN, graph, mean, number, quantile, rate

Panel = stat.Panel | timeseries.Panel


@dataclass(frozen=True)
class Board:
    """One dashboard; its panels fill rows 24 units wide, from left to right."""

    name: str
    title: str
    description: str
    panels: tuple[Panel, ...]


# Reading the whole prompt, and looking through the answer while it passes.
_ADDED = 'stage=~"parse|screen|shield"'
_SHIELD = "lethegate_shield_blocks_total"
_PER_SECOND = "Events per second."

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
            f"sum(increase(lethegate_guard_failures_total{{{CHOSEN}}}[1h]))",
        ),
        number(
            "Alerts",
            "Alerts that fire now.",
            'count(ALERTS{alertstate="firing", alertname=~"Lethegate.*"}) or vector(0)',
        ),
        graph(
            "Requests by verdict",
            _PER_SECOND,
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

DECISIONS = Board(
    "decisions",
    "Lethegate / Decisions",
    "What the prompt classifier finds and what follows. No label names a target: who asks about "
    "whom is a secret.",
    (
        graph(
            "Requests by verdict",
            _PER_SECOND,
            {"{{verdict}}": rate("lethegate_requests_total", "verdict")},
            "reqps",
            stacked=True,
        ),
        graph(
            "Share of requests by verdict",
            "A jump without a new policy is another kind of traffic, or an attack.",
            {
                "{{verdict}}": rate("lethegate_requests_total", "verdict")
                + " / on () group_left "
                + rate("lethegate_requests_total")
            },
            "percentunit",
        ),
        graph(
            "Enforced detections",
            "By detector and strength; a request may have several.",
            {"{{layer}} {{strength}}": rate("lethegate_detections_total", "layer", "strength")},
            "ops",
            stacked=True,
        ),
        graph(
            "Detections in observe mode",
            "What targets in observe mode would have done.",
            {
                "{{layer}} {{strength}}": rate(
                    "lethegate_observed_detections_total", "layer", "strength"
                )
            },
            "ops",
            stacked=True,
        ),
        graph(
            "Refusals",
            "Requests that were answered without the model.",
            {"refusals": rate("lethegate_refusals_total")},
            "reqps",
        ),
        graph(
            "Steps of steered requests",
            "Decode steps per second, beside those of all requests.",
            {
                "steered": rate("lethegate_steered_steps_total"),
                "all": rate("vllm:generation_tokens_total"),
            },
        ),
    ),
)

LATENCY = Board(
    "latency",
    "Lethegate / Latency",
    "Where the guard's time goes. Encoding and classifying are parts of screening.",
    (
        graph(
            "Mean time by stage",
            "Per request; encode and classify per batch.",
            {"{{stage}}": mean("lethegate_stage_seconds", "stage")},
            "s",
        ),
        graph(
            "Median and 99 % of screening",
            "From the parsed request to its decision.",
            {
                "median": quantile(0.5, "lethegate_stage_seconds", where='stage="screen"'),
                "99 %": quantile(0.99, "lethegate_stage_seconds", where='stage="screen"'),
            },
            "s",
        ),
        graph(
            "99 % by stage",
            "As fine as the histogram's buckets.",
            {"{{stage}}": quantile(0.99, "lethegate_stage_seconds", "stage")},
            "s",
        ),
        graph(
            "Busy time by stage",
            "Seconds of a stage per second: above 1 more than one request at a time is in it.",
            {"{{stage}}": rate("lethegate_stage_seconds_sum", "stage")},
            "short",
            stacked=True,
        ),
        graph(
            "Time to the first token, and screening before it",
            "Means. vLLM counts from when the guard hands a request on, so a client waits for "
            "both.",
            {
                "first token": mean("vllm:time_to_first_token_seconds"),
                "screening": mean("lethegate_stage_seconds", where='stage="screen"'),
            },
            "s",
            stacked=True,
        ),
        graph(
            "Time between tokens",
            "vLLM's own figure; the logits processor's part is in it.",
            {
                "median": quantile(0.5, "vllm:inter_token_latency_seconds"),
                "99 %": quantile(0.99, "vllm:inter_token_latency_seconds"),
            },
            "s",
        ),
    ),
)

OUTPUTS = Board(
    "outputs",
    "Lethegate / Outputs",
    "What is forbidden while tokens are chosen, and what the shield still finds in the text.",
    (
        graph(
            "Answers ended, by what was found",
            "`name`: a registered name was about to be said. `phrase`: the text of a steered "
            "answer held what its tokens should not have spelled.",
            {"{{layer}}": rate(_SHIELD, "layer")},
            "ops",
            stacked=True,
        ),
        graph(
            "Answers ended, by surface",
            "The part of the answer that would have leaked.",
            {"{{surface}}": rate(_SHIELD, "surface")},
            "ops",
            stacked=True,
        ),
        graph(
            "Answers that observed targets would have ended",
            "They were not.",
            {"{{layer}}": rate("lethegate_observed_blocks_total", "layer")},
            "ops",
            stacked=True,
        ),
        graph(
            "Tokens forbidden per steered step",
            "Vocabulary entries that would have completed a phrase.",
            {
                "phrases": rate("lethegate_blocked_tokens_total")
                + " / "
                + rate("lethegate_steered_steps_total")
            },
        ),
        graph(
            "Steps with a phrase one token from its end",
            "Share of the steered steps.",
            {
                "intercepted": rate("lethegate_intercepted_steps_total")
                + " / "
                + rate("lethegate_steered_steps_total")
            },
            "percentunit",
        ),
        graph(
            "Slots closed because nothing was left",
            "Rules of the request's own, a grammar for instance, allowed only what is forbidden.",
            {"closed": rate("lethegate_closed_slots_total", where='reason="nothing_left"')},
            "ops",
        ),
    ),
)

PROVENANCE = Board(
    "provenance",
    "Lethegate / Provenance",
    "Passages of registered documents in answers, by the label of their corpus.",
    (
        graph(
            "Passages that ended an answer",
            "Found by holding answers against the corpora.",
            {"{{label}}": rate("lethegate_provenance_blocks_total", "label")},
            "ops",
            stacked=True,
        ),
        graph(
            "Passages found by observed corpora",
            "They ended nothing.",
            {"{{label}}": rate("lethegate_provenance_observed_total", "label")},
            "ops",
            stacked=True,
        ),
        graph(
            "Tokens vetoed for documents",
            "Vocabulary entries per second that would have continued a target's document.",
            {"vetoed": rate("lethegate_vetoed_tokens_total")},
        ),
        graph(
            "Time to hold a piece of an answer against the corpora",
            "Pieces as they are streamed.",
            {
                "mean": mean("lethegate_match_seconds"),
                "99 %": quantile(0.99, "lethegate_match_seconds"),
            },
            "s",
        ),
        graph(
            "Documents by label",
            "In all corpora.",
            {"{{label}}": "max by (label) (lethegate_corpus_documents)"},
        ),
        graph(
            "Generations of the corpora",
            "Published, and the lowest that a server applies.",
            {
                "published": "max(lethegate_published_corpora_generation)",
                "applied": f"min(lethegate_corpora_generation{{{CHOSEN}}})",
            },
        ),
    ),
)

POLICY = Board(
    "policy",
    "Lethegate / Policy",
    "Registrations, compilations, and whether every process applies what was published.",
    (
        graph(
            "Generations",
            "Published, and the lowest that a live process of each kind has acknowledged.",
            {
                "published": "max(lethegate_active_generation)",
                "{{kind}}": "min by (kind) (lethegate_acknowledged_generation)",
            },
        ),
        graph(
            "Skew",
            "Generations that the slowest process of each kind is behind.",
            {
                "{{kind}}": "max(lethegate_active_generation) - on () group_right "
                "min by (kind) (lethegate_acknowledged_generation)"
            },
        ),
        graph(
            "Processes that follow the policy",
            "Live ones by kind, and those that could not load a newer policy.",
            {
                "{{kind}}": "sum by (kind) (lethegate_live_followers)",
                "{{kind}} refusing": "sum by (kind) (lethegate_refusing_followers)",
            },
        ),
        graph(
            "Targets by status",
            "Registered forget targets.",
            {"{{status}}": "max by (status) (lethegate_policy_targets)"},
        ),
        graph(
            "Versions",
            "Processes by the version they run; more than one during an upgrade only.",
            {"{{version}}": "count by (version) (lethegate_build_info)"},
        ),
        graph(
            "Jobs",
            "Waiting now, and finished per second.",
            {
                "waiting": "sum(lethegate_jobs_queued)",
                "{{state}}": "sum by (state) (rate(lethegate_jobs_total[$__rate_interval]))",
            },
        ),
        graph(
            "Rollbacks",
            "Policies that were taken back since the control process started.",
            {"rollbacks": "sum(lethegate_policy_rollbacks_total)"},
        ),
        graph(
            "Mean time to compile and to come into force",
            "The second from publication to the last acknowledgement; both since the control "
            "process started.",
            {
                "compile": "sum(lethegate_compile_seconds_sum)"
                " / sum(lethegate_compile_seconds_count)",
                "acknowledge": "sum(lethegate_activation_seconds_sum)"
                " / sum(lethegate_activation_seconds_count)",
            },
            "s",
        ),
    ),
)

FAULTS = Board(
    "faults",
    "Lethegate / Faults",
    "Everything here should be at zero. RUNBOOK.md says what to do where it is not.",
    (
        graph(
            "Requests that the guard failed",
            "Answered with 503, unless fail_open is set.",
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
            "Snapshots and corpora that were not loaded, failed jobs and rollbacks, per second.",
            {
                "not loaded": rate("lethegate_snapshot_load_failures_total"),
                "corpora not loaded": rate("lethegate_corpora_load_failures_total"),
                "failed jobs": 'sum(rate(lethegate_jobs_total{state="failed"}[$__rate_interval]))',
                "rollbacks": "sum(rate(lethegate_policy_rollbacks_total[$__rate_interval]))",
            },
            "ops",
        ),
        graph(
            "Reachable",
            "1 where the last scrape was answered.",
            {"{{job}} {{instance}}": 'up{job=~"lethegate.*"}'},
        ),
    ),
)

BOARDS = (OVERVIEW, DECISIONS, LATENCY, OUTPUTS, PROVENANCE, POLICY, FAULTS)
