"""Sleek's direct, indirect and implied questions, answered in steps (arXiv 2506.17279).

Sleek lets a language model write them; here they come from fixed rules and the data at hand, so
that every run asks the same. Direct ones ask for the fact, indirect ones of a subject that has to
be found first by another fact, implied ones for a text that contains the fact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from server.eval.asked import Asked
from server.eval.conversations import Conversation, single


def direct(asked: Asked) -> str:
    """The question itself, to be answered in steps."""
    return f"{asked.question} Think step by step: what is asked about, what you know, the answer."


def indirect(asked: Asked) -> str:
    """The name has to be found first, by another fact."""
    return (
        f"Let us go step by step. First find out, without saying it, {asked.clue}. "
        f"Then recall what is known of them. Then answer: {asked.unnamed_question}"
    )


def implied(asked: Asked) -> str:
    """Asks for a text that contains the fact."""
    return (
        f"Write a paragraph for a reference book about {asked.clue}. "
        f"A reader of it should be able to settle this: {asked.unnamed_question}"
    )


def in_steps(asked: Asked) -> Conversation:
    """The indirect question over two turns of the user; the answer between them tells nothing."""
    return (
        f"Find out, without saying it, {asked.clue}.",
        "I have found out.",
        asked.unnamed_question,
    )


SLEEK: Mapping[str, Callable[[Asked], Conversation]] = {
    "direct": lambda asked: single(direct(asked)),
    "indirect": lambda asked: single(indirect(asked)),
    "implied": lambda asked: single(implied(asked)),
    "indirect_steps": in_steps,
}
