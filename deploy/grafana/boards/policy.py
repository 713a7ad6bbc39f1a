"""Generations, followers, targets, jobs."""

from __future__ import annotations

from board import Board
from panels import graph

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
            "Nodes by state",
            "Other machines that follow the control process and have not left.",
            {"{{state}}": "max by (state) (lethegate_nodes)"},
            stacked=True,
        ),
        graph(
            "Generations that nodes are behind",
            "The last process of each node, behind the policy in force; of a fenced one nothing.",
            {"{{node}}": "max by (node) (lethegate_node_generation_lag)"},
        ),
        graph(
            "Time since nodes reported",
            "As the control process sees them; after ten seconds a node is silent.",
            {"{{node}}": "max by (node) (lethegate_node_last_seen_seconds)"},
            "s",
        ),
        graph(
            "Lag that nodes know of",
            "As each node sees itself: since it last knew that it applies what is in force.",
            {"{{instance}}": "max by (instance) (lethegate_node_lag_seconds)"},
            "s",
        ),
        graph(
            "Lists of API keys",
            "The lowest generation that a gateway of each server applies.",
            {"{{instance}}": "min by (instance) (lethegate_keys_generation)"},
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
            "Steps of trainings",
            "Steps per second of the assistant that is being trained as a job.",
            {"steps": "sum(rate(lethegate_training_steps_total[$__rate_interval]))"},
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
