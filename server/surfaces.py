"""The output surfaces of one choice: every string in it that the model wrote.

Surfaces are found by walking the choice, not by listing fields, so that a field which a new engine
version adds is shielded too. A surface is named by its path; a tool call's index is part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]
Decode = Callable[[Sequence[int]], str]

LOGPROBS: Path = ("logprobs",)
TOKEN_IDS: Path = ("token_ids",)
# vLLM writes minus infinity, which JSON lacks, as this number.
BANNED_LOGPROB = -9999.0

_TOKEN_ID = "token_id:"  # noqa: S105
_MESSAGES = ("delta", "message")
# Tokens after which a character that is still not complete never will be.
_LONGEST_CHARACTER = 64
# Set by the engine from closed sets, never by the model.
_FIXED = frozenset({"role", "type", "index"})
# The order in which a model writes them, which is the order a stream shows them in.
_ORDER = ("reasoning", "reasoning_content", "content", "text", "refusal")


def written_texts(choice: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """The texts of a choice (whole or delta) by surface, in the order they were written."""
    found: list[tuple[Path, str]] = []
    for key in _MESSAGES:
        message = choice.get(key)
        if isinstance(message, dict):
            found += _walk(message, (key,))
    if isinstance(choice.get("text"), str):
        found.append((("text",), choice["text"]))
    return sorted(found, key=_rank)


def metric_label(path: Path) -> str:
    """The closed-set name of a surface."""
    if path == LOGPROBS:
        return "logprobs"
    if "tool_calls" in path or "function_call" in path:
        return "tool_name" if path[-1] == "name" else "tool_arguments"
    names = {"reasoning_content": "reasoning"}
    return names.get(str(path[-1]), str(path[-1]))


def with_texts(choice: Mapping[str, Any], kept: Mapping[Path, str]) -> dict[str, Any]:
    """A copy in which each surface has only its kept text and the tokens are not told."""
    cut = copy.deepcopy(dict(choice))
    for path, _ in written_texts(choice):
        parent, key = _parent(cut, path)
        parent[key] = kept.get(path, "")
    for key in ("logprobs", "token_ids", "routed_experts"):
        if cut.get(key) is not None:
            cut[key] = None
    return cut


def logprob_tokens(choice: Mapping[str, Any]) -> list[str]:
    """The strings of the sampled tokens, from either API's log-probabilities."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return []
    tokens = logprobs.get("tokens")
    if tokens is None:
        tokens = [entry.get("token") for entry in logprobs.get("content") or ()]
    return [token for token in tokens if isinstance(token, str)]


def drop_alternatives(choice: dict[str, Any], unwanted: Callable[[str, float], bool]) -> bool:
    """Remove, in place, the alternatives in `top_logprobs` that `unwanted(token, logprob)` names.

    Returns:
        Whether anything was removed.
    """
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return False
    changed = False
    for entry in logprobs.get("content") or ():
        before = entry.get("top_logprobs") or []
        entry["top_logprobs"] = [a for a in before if not unwanted(a["token"], a["logprob"])]
        changed |= len(entry["top_logprobs"]) != len(before)
    steps = logprobs.get("top_logprobs") or []
    for index, step in enumerate(steps):
        if step is not None:
            steps[index] = {t: p for t, p in step.items() if not unwanted(t, p)}
            changed |= len(steps[index]) != len(step)
    return changed


class TokenText:
    """Text of a growing list of token ids, in constant time per token.

    Decodes a short window twice, with and without the new tokens, and takes the difference: a
    token's text depends on its neighbours (spaces, characters spread over several tokens). Only a
    character that is not complete waits for the tokens that follow.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._read = 0
        self._given = 0

    def feed_tokens(self, tokens: Sequence[str]) -> str:
        """Text of tokens that may be written as `token_id:7`."""
        if not all(token.startswith(_TOKEN_ID) for token in tokens):
            return "".join(tokens)
        return self.feed([int(token.removeprefix(_TOKEN_ID)) for token in tokens])

    def feed(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        self._window += token_ids
        before, after = self._decode(self._window[: self._read]), self._decode(self._window)
        whole = after.rstrip("\ufffd")
        first = len(before) + self._given
        if whole == after or len(self._window) - self._read > _LONGEST_CHARACTER:
            self._window = self._window[self._read :]
            self._read, self._given = len(self._window), 0
            return after[first:]
        self._given = max(self._given, len(whole) - len(before))
        return whole[first:]


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _FIXED:
                yield from _walk(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            index = inner.get("index") if isinstance(inner, dict) else None
            yield from _walk(inner, (*path, index if isinstance(index, int) else position))


def _parent(choice: Any, path: Path) -> tuple[Any, str | int]:
    node = choice
    for step in path[:-1]:
        node = node[step] if isinstance(node, dict) else _element(node, step)
    if isinstance(node, list):
        return node, next(i for i, e in enumerate(node) if e is _element(node, path[-1]))
    return node, path[-1]


def _element(elements: list[Any], index: str | int) -> Any:
    for element in elements:
        if isinstance(element, dict) and element.get("index") == index:
            return element
    return elements[int(index)]


def _rank(surface: tuple[Path, str]) -> int:
    name = surface[0][1] if len(surface[0]) > 1 else surface[0][0]
    return _ORDER.index(str(name)) if name in _ORDER else len(_ORDER)
