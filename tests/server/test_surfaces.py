"""Surfaces: found by walking, named by path, rewritten in place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from server.surfaces import TokenText, metric_label, with_texts, written_texts

_CALL = {"index": 3, "id": "c", "function": {"name": "find", "arguments": "{}"}}
_ARGUMENTS = ("delta", "tool_calls", 3, "function", "arguments")


def test_a_tool_call_keeps_its_index_over_deltas() -> None:
    """A call's surface is the same wherever the call stands in a delta's list."""
    paths = dict(written_texts({"delta": {"tool_calls": [_CALL]}}))

    assert paths[_ARGUMENTS] == "{}"
    assert metric_label(_ARGUMENTS) == "tool_arguments"


def test_surfaces_come_in_the_order_a_model_writes_them() -> None:
    """Reasoning before content before tool calls, whatever the order of the keys."""
    message = {"tool_calls": [_CALL], "content": "b", "role": "assistant", "reasoning": "a"}

    assert [text for _, text in written_texts({"message": message})][:2] == ["a", "b"]


def test_a_cut_choice_shows_only_what_is_kept() -> None:
    """Other texts are empty, and what names the tokens is gone; the original is untouched."""
    choice = {"index": 0, "delta": {"content": "abc", "tool_calls": [_CALL]}, "token_ids": [1]}
    cut = with_texts(choice, {("delta", "content"): "a"})

    assert cut["delta"]["content"] == "a"
    assert cut["delta"]["tool_calls"][0]["function"] == {"name": "", "arguments": ""}
    assert cut["token_ids"] is None
    assert choice["delta"]["content"] == "abc"


@given(st.text("aé漢😀 ", max_size=12), st.lists(st.integers(0, 40), max_size=6))
def test_token_text_is_the_text_of_all_tokens(text: str, cuts: list[int]) -> None:
    """Byte tokens fed in any grouping give the text once each character is complete."""
    raw = text.encode()

    def decode(token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "replace")

    tokens, out = TokenText(decode), ""
    borders = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    for start, end in pairwise(borders):
        out += tokens.feed(list(raw[start:end]))

    assert out == text


@given(st.text("aé漢😀 ", max_size=12), st.integers(1, 3))
def test_a_cut_character_hides_nothing(text: str, more: int) -> None:
    """What stands before a character that never becomes complete is read all the same."""

    def decode(token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "replace")

    cut = "😀".encode()[:more]

    assert text == TokenText(decode).feed([*text.encode(), *cut])
    tokens = TokenText(decode)
    assert text == "".join(tokens.feed([byte]) for byte in [*text.encode(), *cut])
