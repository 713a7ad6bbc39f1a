"""What single targets do and cost: from the control process, and only where it may tell."""

from __future__ import annotations

from board import Board
from panels import graph

_MOST = 20


def _rates(name: str, *labels: str, where: str = "") -> str:
    """Events per second of the targets of which there are most; the leading process tells them."""
    selector = f"{name}{{{where}}}" if where else name
    by = ", ".join(("target", *labels))
    return f"topk({_MOST}, sum by ({by}) (rate({selector}[$__rate_interval])))"


TARGETS = Board(
    "targets",
    "Lethegate / Targets",
    "What single targets do and cost, by id. Empty unless target_series is set and Prometheus has "
    "an auditor's key for the admin port: who asks about whom is a secret.",
    (
        graph(
            "Prompts refused or steered",
            f"Per second, by target: the {_MOST} with the most.",
            {
                "{{target}} {{outcome}}": _rates(
                    "lethegate_target_prompts_total", "outcome", where='outcome=~"refused|steered"'
                )
            },
            "reqps",
            stacked=True,
        ),
        graph(
            "Prompts that observed targets would have blocked",
            "Per second, by target; nothing happened to them.",
            {
                "{{target}} {{outcome}}": _rates(
                    "lethegate_target_prompts_total", "outcome", where='outcome=~"would_.*"'
                )
            },
            "reqps",
            stacked=True,
        ),
        graph(
            "Answers ended",
            "By whose phrase, name or passage ended them, or would have.",
            {"{{target}} {{outcome}}": _rates("lethegate_target_cut_answers_total", "outcome")},
            "ops",
            stacked=True,
        ),
        graph(
            "Time the guard spends",
            "Seconds per second, by target: its part of what was added to requests it was found "
            "in.",
            {"{{target}} {{stage}}": _rates("lethegate_target_guard_seconds_total", "stage")},
            "s",
            stacked=True,
        ),
        graph(
            "Steps kept from completing a phrase",
            "Decode steps per second, by target.",
            {"{{target}}": _rates("lethegate_target_prevented_steps_total")},
            stacked=True,
        ),
        graph(
            "Targets without series",
            "Something was counted of them, and target_series has no room.",
            {"targets": "max(lethegate_untold_targets)"},
        ),
    ),
)
