"""What was shown of a response's output, as its events built it; and how an open item is ended."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from server.apis.response_surfaces import DELTAS, Event, paths_of, slot_of, texts_of
from server.surfaces import Path


class ShownOutput:
    """`items` are complete; at most one more is open."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._index = 0
        self._open: dict[str, Any] | None = None
        self._parts: list[dict[str, Any]] = []
        self._text: list[str] = []
        self._shown: dict[Path, list[str]] = {}

    def take(self, event: Event) -> None:
        """An event was sent."""
        kind = event["type"]
        if kind == "response.output_item.added":
            self._index, self._open = event["output_index"], copy.deepcopy(event["item"])
            self._parts, self._text = [], []
            for slot, text in texts_of(self._index, event["item"]):
                self._add(paths_of(slot), text)
        elif kind == "response.content_part.added":
            self._parts.append(copy.deepcopy(event["part"]))
            self._text = []
        elif kind in DELTAS:
            self._text.append(event["delta"])
            self._add(paths_of(slot_of(event, DELTAS[kind])), event["delta"])
        elif kind == "response.output_item.done":
            self.items.append(event["item"])
            self._open = None

    def before(self, paths: Sequence[Path]) -> list[str]:
        """What was shown so far on each of these surfaces."""
        return ["".join(self._shown.get(path, ())) for path in paths]

    def close(self) -> Iterator[Event]:
        """The events that end the open item where it is."""
        item, text = self._open, "".join(self._text)
        if item is None:
            return
        self._open = None
        place: dict[str, Any] = {"item_id": item["id"], "output_index": self._index}
        if item["type"] in ("message", "reasoning"):
            yield from self._close_part(item["type"], place, text)
            item["content"] = self._parts
        else:
            field = "arguments" if item["type"] == "function_call" else "input"
            name = {"name": item["name"]} if field == "arguments" else {}
            item[field] = text
            event = "function_call_arguments" if field == "arguments" else "custom_tool_call_input"
            yield {"type": f"response.{event}.done", **place, field: text, **name}
        if "status" in item:
            item["status"] = "incomplete"
        self.items.append(item)
        yield {"type": "response.output_item.done", "output_index": self._index, "item": item}

    def _close_part(self, kind: str, place: dict[str, Any], text: str) -> Iterator[Event]:
        if not self._parts:
            return
        part = self._parts[-1]
        part["text"] = text
        place["content_index"] = len(self._parts) - 1
        if kind == "message":
            yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
        else:
            yield {"type": "response.reasoning_text.done", **place, "text": text}
        yield {"type": "response.content_part.done", **place, "part": part}

    def _add(self, paths: Sequence[Path], text: str) -> None:
        if text:
            for path in paths:
                self._shown.setdefault(path, []).append(text)
