"""The output surfaces of a response: what its items say, in events and whole.

A text is on up to three surfaces: that of its own part, that of all texts of its kind, as the model
wrote them one after the other, and that of everything, so that a phrase begun in the reasoning or
in the content and ended in the other is seen. What deltas said is repeated by the events that close
a part, an item and the response; such a text is either just that or judged as one of its own. What
the response repeats of the request (instructions, tools) is the client's and passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.choice_shield import ChoiceShield, Span
from server.surfaces import Path

Event = dict[str, Any]
# Index of the item, kind of text, and where a kind can occur more than once its place.
Slot = tuple[str | int, ...]

# The kind of text in a delta, and the field in which the event that ends it has it all.
DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}
_DONE = {
    "response.output_text.done": ("text", "text"),
    "response.reasoning_text.done": ("reasoning", "text"),
    "response.function_call_arguments.done": ("arguments", "arguments"),
    "response.custom_tool_call_input.done": ("input", "input"),
}
_PARTS = {"output_text": "text", "reasoning_text": "reasoning", "summary_text": "summary"}
_CALLS = {
    "function_call": ("name", "namespace", "call_id", "arguments"),
    "custom_tool_call": ("name", "namespace", "call_id", "input"),
}
# Set by the engine, never by the model; no other field may hold anything.
_FIXED = frozenset({"id", "type", "status", "role", "phase"})
_EVENT_FIXED = frozenset({"type", "sequence_number", "item_id", "output_index", "content_index"})
_JOINED: dict[str, Path] = {
    "text": ("delta", "content"),
    "reasoning": ("delta", "reasoning"),
    "summary": ("delta", "reasoning"),
}
_EVERYTHING: Path = ("delta", "all", "content")


def slot_of(event: Event, kind: str) -> Slot:
    """The slot that a delta, or the end of one, is about."""
    slot: Slot = (event["output_index"], kind)
    return (*slot, event["content_index"]) if "content_index" in event else slot


def paths_of(slot: Slot) -> tuple[Path, ...]:
    """The surfaces of a slot's text, its own last.

    So whatever catches something, the wider ones have read as far, and know what may be shown.
    """
    kind = str(slot[1])
    if kind in _JOINED:
        label = "text" if kind == "text" else "reasoning_content"
        return _EVERYTHING, _JOINED[kind], ("delta", "parts", *slot, label)
    label = "name" if kind == "name" else "arguments"
    return _EVERYTHING, ("delta", "tool_calls", *slot, label)


def texts_of(index: int, item: dict[str, Any]) -> Iterator[tuple[Slot, str]]:
    """The texts of an item.

    Raises:
        ValueError: it is of an unknown kind or has an unknown field.
    """
    kind = item["type"]
    if kind in _CALLS:
        _reject_unknown(item, {*_FIXED, *_CALLS[kind]})
        for key in _CALLS[kind]:
            yield (index, key), item.get(key) or ""
    elif kind in ("message", "reasoning"):
        _reject_unknown(item, {*_FIXED, "content", "summary"})
        for key in ("summary", "content"):
            for place, part in enumerate(item.get(key) or ()):
                yield part_text(index, place, part)
    else:
        raise ValueError("unknown kind of item")


def part_text(index: int, place: int, part: dict[str, Any]) -> tuple[Slot, str]:
    """The text of a part.

    Raises:
        ValueError: it is of an unknown kind or has an unknown field.
    """
    _reject_unknown(part, {"type", "text", "logprobs"})
    kind = _PARTS.get(part["type"])
    if kind is None:
        raise ValueError("unknown kind of part")
    return (index, kind, place), part["text"]


class ResponseSurfaces:
    """Feeds what a response says to its shield.

    `hid_alternatives`: tokens were taken out of an event's log-probabilities, in place.
    """

    def __init__(self, shield: ChoiceShield) -> None:
        self._shield = shield
        self._said: dict[Slot, list[str]] = {}
        self._num_echoes = 0
        self.hid_alternatives = False

    def take(self, event: Event) -> list[Span]:
        """The spans of an event.

        Raises:
            ValueError: it is of an unknown kind, or holds something unknown.
        """
        kind = event["type"]
        if kind in DELTAS:
            _reject_unknown(event, {*_EVENT_FIXED, "delta", "logprobs"})
            slot = slot_of(event, DELTAS[kind])
            return [*self._add(slot, event["delta"]), *self._logprobs(slot, event)]
        if kind in _DONE:
            return self._take_done(event, *_DONE[kind])
        if kind in ("response.content_part.added", "response.content_part.done"):
            _reject_unknown(event, {*_EVENT_FIXED, "part"})
            return self._part(event["output_index"], event["content_index"], event["part"])
        if kind in ("response.output_item.added", "response.output_item.done"):
            _reject_unknown(event, {*_EVENT_FIXED, "item"})
            return self.item(event["output_index"], event["item"], whole=kind.endswith(".done"))
        raise ValueError("unknown kind of event")

    def item(self, index: int, item: dict[str, Any], *, whole: bool) -> list[Span]:
        """The spans of an item; if it is whole its own surfaces end.

        Raises:
            ValueError: it is of an unknown kind, or holds something unknown.
        """
        spans = []
        for slot, text in texts_of(index, item):
            spans += self._repeat(slot, text)
            # Only arguments go on behind the item that they begin in.
            if whole or slot[1] not in ("arguments", "input"):
                self._shield.finish_surface(paths_of(slot)[-1])
        if item["type"] == "message":
            for place, part in enumerate(item.get("content") or ()):
                spans += self._logprobs((index, "text", place), part, repeated=True)
        return spans

    def _part(self, index: int, place: int, part: dict[str, Any]) -> list[Span]:
        slot, text = part_text(index, place, part)
        return [*self._repeat(slot, text), *self._logprobs(slot, part, repeated=True)]

    def _take_done(self, event: Event, kind: str, field: str) -> list[Span]:
        _reject_unknown(event, {*_EVENT_FIXED, field, "logprobs", "name"})
        slot = slot_of(event, kind)
        spans = [*self._repeat(slot, event[field]), *self._logprobs(slot, event, repeated=True)]
        if event.get("name"):
            spans += self._repeat((event["output_index"], "name"), event["name"])
        return spans

    def _add(self, slot: Slot, text: str) -> list[Span]:
        self._said.setdefault(slot, []).append(text)
        return [self._shield.feed_text(path, text) for path in paths_of(slot)]

    def _repeat(self, slot: Slot, text: str) -> list[Span]:
        """A text that says again what the slot said, or is the first there."""
        said = "".join(self._said.get(slot, ()))
        if text == said:
            return []
        return self._echo(paths_of(slot)[-1][-1], text) if said else self._add(slot, text)

    def _echo(self, label: str | int, text: str) -> list[Span]:
        self._num_echoes += 1
        path = ("delta", "tool_calls", "echoes", self._num_echoes, label)
        span = self._shield.feed_text(path, text)
        self._shield.finish_surface(path)
        return [span]

    def _logprobs(
        self, slot: Slot, holder: dict[str, Any], *, repeated: bool = False
    ) -> list[Span]:
        entries = holder.get("logprobs")
        if not entries:
            return []
        choice = {"logprobs": {"content": entries}}
        self.hid_alternatives |= self._shield.hide_alternatives(choice)
        tokens = [entry["token"] for entry in entries]
        said = self._said.setdefault((*slot, "logprobs"), [])
        if not repeated or not said:
            said += tokens
            return self._shield.feed(choice)
        return [] if tokens == said else self._echo("logprobs", "".join(tokens))


def _reject_unknown(holder: dict[str, Any], known: set[str]) -> None:
    if any(holder[key] for key in holder.keys() - known):
        raise ValueError("unknown field")
