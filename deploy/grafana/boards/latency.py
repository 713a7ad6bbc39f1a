"""Where the guard's time goes."""

from __future__ import annotations

from board import Board
from panels import graph, mean, quantile, rate

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
