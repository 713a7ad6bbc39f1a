"""Passages of registered documents."""

from __future__ import annotations

from board import Board
from panels import CHOSEN, graph, mean, quantile, rate

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
