"""What the prompt classifier finds."""

from __future__ import annotations

from board import Board
from panels import graph, rate

DECISIONS = Board(
    "decisions",
    "Lethegate / Decisions",
    "What the prompt classifier finds and what follows. No label names a target: who asks about "
    "whom is a secret.",
    (
        graph(
            "Requests by verdict",
            "Events per second.",
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
            "Requests over the limit of their key",
            "Answered with 429.",
            {"{{limit}}": rate("lethegate_limited_requests_total", "limit")},
            "reqps",
            stacked=True,
        ),
        graph(
            "Steps of steered requests",
            "Decode steps per second, beside those of all requests.",
            {
                "steered": rate("lethegate_steered_steps_total"),
                "with an assistant": rate("lethegate_subtracted_steps_total"),
                "all": rate("vllm:generation_tokens_total"),
            },
        ),
    ),
)
