"""What an answer goes on with: whose it is, and how much of it is read."""

from __future__ import annotations

from typing import Any

import pytest

from server.apis.table import APIS
from server.endpoints import Handling
from server.prefixes import PREFIX_CHARS, Prefixes, prefill

_CACHED = {"type": "text", "text": "By Ilse", "cache_control": {"type": "ephemeral"}}


def test_each_prompt_has_its_choices() -> None:
    """Choices are numbered through all prompts; one that nobody asked for has none."""
    prefixes = Prefixes(["One", "Two"], 2)

    assert [prefixes.of(index) for index in range(5)] == ["one", "one", "two", "two", ""]
    assert Prefixes().of(0) == ""


@pytest.mark.parametrize("n", [2, 2.0, "2", " 2 "])
def test_choices_are_counted_as_the_engine_counts_them(n: Any) -> None:
    """However the number is written, each choice goes on with its own prompt."""
    api = APIS[Handling.COMPLETIONS]
    body = {"prompt": ["One", "Two"], "n": n}
    prefixes = api.prefixes(body, lambda _: "")

    assert [prefixes.of(index) for index in range(4)] == ["one", "one", "two", "two"]
    assert api.form(body).num_choices == 4


def test_the_stops_of_a_response_are_told_as_the_engine_takes_them() -> None:
    """Tokens by number, however that is written, and texts; nothing else ends an answer."""
    body = {"input": "hi", "stop": ["7", "the"], "stop_token_ids": [7, "8", 9.0, "x"]}

    assert APIS[Handling.RESPONSES].prefixes(body, lambda _: "").endings == ("7", "the", 7, 8, 9)


def test_the_end_is_read_however_it_is_padded() -> None:
    """A long prompt costs no more than its end, and what cannot be seen pushes nothing out."""
    padded = "By " + "\u200b" * 9000 + " " * 9000 + "Ilse"

    assert Prefixes(["word " * 9000 + padded]).of(0).endswith("by ilse")
    assert len(Prefixes(["word " * 9000]).of(0)) == PREFIX_CHARS


@pytest.mark.parametrize(
    ("message", "goes_on", "expected"),
    [
        ({"role": "assistant", "content": "By Ilse"}, False, "By Ilse"),
        ({"role": "assistant", "content": [_CACHED]}, False, "By Ilse"),
        ({"role": "assistant", "content": ["By", {"type": "text", "text": "Ilse"}]}, False,
         "By\nIlse"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]}, False, "No"),
        ({"role": "assistant", "content": None}, False, ""),
        ({"role": "assistant", "content": [{"type": "text", "text": 5}, 7]}, False, "\n"),
        ({"role": "user", "content": "By Ilse"}, False, ""),
        ({"role": "user", "content": "By Ilse"}, True, "By Ilse"),
    ],
)  # fmt: skip
def test_the_last_message(message: dict[str, Any], goes_on: bool, expected: str) -> None:
    """The model's own turn, or the one that it is asked to go on with."""
    assert prefill([{"role": "assistant", "content": "x"}, message], goes_on=goes_on) == expected
    assert prefill([], goes_on=goes_on) == ""
