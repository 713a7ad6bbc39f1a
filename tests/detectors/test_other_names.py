"""Names that a target's own texts give to whom its aliases name."""

from __future__ import annotations

import pytest

from detectors.other_names import other_names
from detectors.targets import Example, ForgetTarget
from tracing.document import Document


def _target(text: str, **more: tuple[str, ...]) -> ForgetTarget:
    return ForgetTarget("x", documents=(Document(text),), **more)


@pytest.mark.parametrize(
    ("alias", "text", "names"),
    [
        ("Orla Q", "Orla Q, born Orlaith Maire Fenwick, is a singer.", ("Orlaith Maire Fenwick",)),
        ("Orla Q", "Orla Q was born Orlaith Fenwick on May 1.", ("Orlaith Fenwick",)),
        (
            "Orla Q",
            "Orlaith Fenwick, better known by her stage name, Orla Q.",
            ("Orlaith Fenwick",),
        ),
        ("Orla Q", "Orlaith Fenwick is professionally known as Orla Q.", ("Orlaith Fenwick",)),
        ("Orla Q", "Orla Q's birth name was Orlaith in Irish.", ("Orlaith",)),
        ("Orla Q", "Orla Q, also known as Lady Vexworth, sang.", ("Lady Vexworth",)),
        ("Jo Fenwick", "Joan Ada Fenwick (born 1969) sings.", ("Joan Ada Fenwick",)),
        ("Prince Otto, Duke of Marden", "Prince Otto's full name is Otto Karl.", ("Otto Karl",)),
        # Of others, and of no name at all.
        ("Orla Q", "Orla Q's husband, born Ruben Tallow, is a singer.", ()),
        ("Orla Q", "The music of Orla Q is known as Irish Folk.", ()),
        ("Orla Q", "The husband of Orla Q, born Ruben Tallow, sings.", ()),
        ("Orla Q", "The son of Ruben Tallow, better known as Orla Q.", ()),
        ("Orla Q", "Orla Q, born in Galway Town, is a singer.", ()),
        ("Jo Fenwick", "She met Ruben Tallow (born 1969).", ()),
        ("Jo Fenwick", "Jo Fenwick's full name was Jo Fenwick.", ()),
        ("Jo Fenwick", "Jo Fenwick's legal name was Fenwick.", ()),
    ],
)
def test_only_stated_names_of_the_target_count(
    alias: str, text: str, names: tuple[str, ...]
) -> None:
    """A registered alias has to stand in the statement, next to the name."""
    assert other_names(_target(text), [alias]) == names


def test_examples_state_names_too() -> None:
    """Blanks are filled with the answer, which otherwise follows the question."""
    target = ForgetTarget(
        "x",
        examples=(
            Example("Orla Q's real name at birth was ___ (1969).", "Orlaith Fenwick"),
            Example("What was Orla Q's legal name?", "Orlaith Tallow"),
            Example("What is the full name Orla Q was christened with?", "Orlaith Maire Fenwick"),
        ),
    )

    assert other_names(target, ["Orla Q"]) == (
        "Orlaith Fenwick",
        "Orlaith Tallow",
        "Orlaith Maire Fenwick",
    )


def test_what_the_operator_excludes_is_left_out() -> None:
    """Struck phrases and names of retain examples."""
    text = "Orla Q, born Orlaith Fenwick, sings."

    assert other_names(_target(text, excluded_phrases=("orlaith FENWICK",)), ["Orla Q"]) == ()
    assert (
        other_names(_target(text, retain_examples=("Who is Orlaith Fenwick?",)), ["Orla Q"]) == ()
    )


def test_long_texts_take_no_time() -> None:
    """A statement that never comes to an end is no trap."""
    text = "Orla Q, born " + "Ada de la " * 20_000

    assert len(other_names(_target(text), ["Orla Q"])) <= 1
