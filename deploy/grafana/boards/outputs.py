"""What is forbidden and what is caught."""

from __future__ import annotations

from board import Board
from panels import graph, rate

_SHIELD = "lethegate_shield_blocks_total"

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
