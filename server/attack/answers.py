"""What an answer of any API says, surface by surface."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from server.sse import EventSplitter, event_data
from server.surfaces import logprob_tokens, written_texts

# The surface of an error.
ERROR = "error"
# Between texts that are read one by one: of private use, so that no phrase holds it.
_APART = "\ue000"
# The token of a step, and those that might have been sampled instead.
_Step = tuple[str, Iterable[str]]


def surfaces_of(body: bytes, *, stream: bool) -> dict[str, str]:
    """The texts of an answer by surface; those of a stream's deltas are joined.

    Raises:
        ValueError: it is not JSON, or a stream of it.
    """
    found: dict[str, str] = {}
    steps: dict[str, list[_Step]] = {}
    for part in _events(body) if stream else [json.loads(body)]:
        for surface, text in _said(part):
            found[surface] = found.get(surface, "") + text
        for surface, some in _sampled(part):
            steps.setdefault(surface, []).extend(some)
    return found | {surface: _alternatives(some) for surface, some in steps.items()}


def _events(body: bytes) -> Iterator[Any]:
    for event in EventSplitter().feed(body):
        data = event_data(event)
        if data is not None and data.strip() != b"[DONE]":
            yield json.loads(data)


def _said(part: Any) -> Iterator[tuple[str, str]]:
    if str(part.get("type")).startswith("response."):
        yield from _response_event(part)
        return
    for item in part.get("output") or ():
        yield from _item("output", item)
    for choice in part.get("choices") or ():
        index = choice["index"]
        for path, text in written_texts(choice):
            yield f"choice {index} {path[-1]}", text
        yield f"choice {index} logprobs", "".join(logprob_tokens(choice))
    if "delta" in part:
        yield from _block(part["delta"])
    for block in part.get("content") or ():
        yield from _block(block)
    if "error" in part:
        yield ERROR, json.dumps(part["error"], ensure_ascii=False)


def _sampled(part: Any) -> Iterator[tuple[str, Iterable[_Step]]]:
    """The steps of the log-probabilities that a part holds."""
    for choice in part.get("choices") or ():
        yield f"choice {choice['index']} alternatives", _of_choice(choice)
    is_event = str(part.get("type")).startswith("response.")
    kind = part["type"].removeprefix("response.") if is_event else "output"
    items = (part.get("item"), *((part.get("response") or part).get("output") or ()))
    for holder in (part, *(block for item in items for block in (item or {}).get("content") or ())):
        yield f"{kind} alternatives", map(_step, holder.get("logprobs") or ())


def _alternatives(steps: Iterable[_Step]) -> str:
    """What each token that might have been sampled would have made of the text before it."""
    said, found = "", []
    for token, others in steps:
        found += [said + other for other in others]
        said += token
    return "".join(_APART + text for text in found)


def _of_choice(choice: Any) -> Iterable[_Step]:
    """Those in the log-probabilities of a chat, or of a completion."""
    logprobs = choice.get("logprobs") or {}
    if "tokens" in logprobs:
        others = (step or () for step in logprobs.get("top_logprobs") or ())
        return zip(logprobs["tokens"], others, strict=False)
    return map(_step, logprobs.get("content") or ())


def _step(entry: Any) -> _Step:
    return entry["token"], [other["token"] for other in entry.get("top_logprobs") or ()]


def _response_event(event: Any) -> Iterator[tuple[str, str]]:
    """What an event of a response says; the request's own texts in it are the client's."""
    kind = event["type"].removeprefix("response.")
    for key in ("delta", "text", "arguments", "input", "name"):
        if isinstance(event.get(key), str):
            yield f"{kind} {key}", event[key]
    yield from _logprobs(kind, event)
    if "part" in event:
        yield f"{kind} part", event["part"].get("text") or ""
    for item in (event.get("item"), *(event.get("response") or {}).get("output", ())):
        yield from _item(kind, item or {})


def _item(kind: str, item: Any) -> Iterator[tuple[str, str]]:
    for key in ("name", "arguments", "input"):
        yield f"{kind} {key}", item.get(key) or ""
    for part in (*(item.get("content") or ()), *(item.get("summary") or ())):
        yield f"{kind} {part.get('type')}", part.get("text") or part.get("refusal") or ""
        yield from _logprobs(kind, part)


def _logprobs(kind: str, holder: Any) -> Iterator[tuple[str, str]]:
    entries = holder.get("logprobs") or ()
    yield f"{kind} logprobs", "".join(entry["token"] for entry in entries)


def _block(block: Any) -> Iterator[tuple[str, str]]:
    for key in ("text", "thinking", "partial_json", "name"):
        if isinstance(block.get(key), str):
            yield key, block[key]
    if isinstance(block.get("input"), dict):
        yield "input", json.dumps(block["input"], ensure_ascii=False)
