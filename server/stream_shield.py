"""A shielded response as a stream of events: what may go out now, and how the stream ends.

Events are released whole and unchanged, in order per choice, as soon as all text in them is clear.
When a choice is blocked, its last events are cut to what is clear and it ends with
`finish_reason: "content_filter"`; the other choices go on. Knows bytes and JSON, not ASGI.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.choice_shield import ChoiceShield, ShieldPolicy, Span
from server.error_table import error_body
from server.plain_chunks import PlainChunk, PlainChunks
from server.refusals import FINISH_REASON
from server.shielded_events import FAILED, STOPPED, RecordBlock, ShieldedEvents
from server.sse import DONE, encode_event, event_data
from server.stream_form import StreamForm
from server.surfaces import metric_label, with_texts, written_texts

# Inside a JSON string the quote would be escaped, so this can only be the chunk's own field.
_USAGE = re.compile(rb',"usage":\{(?:[^{}]|\{[^{}]*\})*\}')


@dataclass(frozen=True, slots=True)
class _Pending:
    """An event that waits; `chunk` is None where it was not parsed yet."""

    raw: bytes
    chunk: dict[str, Any] | None
    spans: list[Span]


class StreamShield(ShieldedEvents):
    """Shield of one response. It has `ended` when [DONE] is out."""

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        super().__init__(policy, form, record_block)
        self._plain = PlainChunks()
        self._choices: dict[int, ChoiceShield] = {}
        self._pending: dict[int, deque[_Pending]] = {}
        self._closed: set[int] = set()
        self._template: dict[str, Any] = {}
        self._prompt_tokens = 0
        self._completion_tokens: dict[int, int] = {}

    def _stop(self) -> Iterator[bytes]:
        self.ended = True
        yield from self._flush()
        yield encode_event(error_body(STOPPED, "server_error", "engine_error"))
        yield DONE

    def _take(self, event: bytes) -> Iterator[bytes]:
        plain = self._plain.read(event)
        if plain is not None:
            return self._take_plain(event, plain)
        return self._take_other(event)

    def _take_plain(self, event: bytes, plain: PlainChunk) -> Iterator[bytes]:
        if plain.index not in self._closed:
            span = self._choices[plain.index].feed_text(plain.path, plain.text)
            self._pending[plain.index].append(_Pending(event, None, [span]))
            yield from self._release(plain.index)
            if self._is_over():
                yield from self._end()

    def _take_other(self, event: bytes) -> Iterator[bytes]:
        data = event_data(event)
        if data is None:
            yield event
        elif data.strip() == b"[DONE]":
            yield from self._flush()
            yield event
            self.ended = True
        else:
            chunk = json.loads(data)
            if "error" in chunk:
                yield from self._take_error(event, chunk)
            else:
                yield from self._take_chunk(event, chunk)

    def _take_error(self, event: bytes, chunk: dict[str, Any]) -> Iterator[bytes]:
        error = chunk["error"]
        code = error.get("code") if isinstance(error, dict) else None
        if code == 500 and self._fault_is_ours():
            yield from self._end_filtered()
        elif type(code) is not int or code >= 500:
            yield encode_event(error_body(FAILED, "server_error", "engine_error"))
        elif self._policy.tells(json.dumps(chunk, ensure_ascii=False)):
            self._record_block("other", None)
            yield encode_event(error_body(FAILED, "invalid_request_error", "engine_error"))
        else:
            yield event
        self._pending.clear()
        self._closed.update(range(self._form.num_choices))

    def _take_chunk(self, event: bytes, chunk: dict[str, Any]) -> Iterator[bytes]:
        choices = chunk.get("choices") or []
        self._template = {key: chunk[key] for key in ("id", "object", "created", "model")}
        self._note_usage(chunk, choices)
        if self._form.usage_added and choices:
            event = _USAGE.sub(b"", event)
            chunk.pop("usage", None)
        if not choices:
            yield event
        for choice in choices:
            if choice["index"] in self._closed:
                continue
            alone = chunk if len(choices) == 1 else {**chunk, "choices": [choice]}
            raw = event if len(choices) == 1 else encode_event(alone)
            yield from self._take_choice(raw, alone, choice)
        if self._is_over():
            yield from self._end()

    def _note_usage(self, chunk: dict[str, Any], choices: list[dict[str, Any]]) -> None:
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._prompt_tokens = usage.get("prompt_tokens") or self._prompt_tokens
            for choice in choices:
                self._completion_tokens[choice["index"]] = usage.get("completion_tokens") or 0

    def _take_choice(
        self, raw: bytes, chunk: dict[str, Any], choice: dict[str, Any]
    ) -> Iterator[bytes]:
        index = choice["index"]
        if index not in self._choices:
            self._choices[index] = ChoiceShield(self._policy, self._policy.prefixes.of(index))
        shield = self._choices[index]
        pending = self._pending.setdefault(index, deque())
        spans = shield.feed(choice)
        changed = choice.get("logprobs") is not None and shield.hide_alternatives(choice)
        if choice.get("finish_reason") is not None and self._policy.closed() is not None:
            choice |= {"finish_reason": FINISH_REASON, "stop_reason": None}
            changed = True
        pending.append(_Pending(encode_event(chunk) if changed else raw, chunk, spans))
        if _says_only(choice, spans) and "usage" not in chunk and not changed:
            [(path, text)] = written_texts(choice)
            self._plain.learn(raw, PlainChunk(index, path, text))
        yield from self._release(index)
        if shield.blocked_at is None and choice.get("finish_reason") is not None:
            self._closed.add(index)

    def _release(self, index: int) -> Iterator[bytes]:
        """The events that are clear; all that is clear if the choice is blocked."""
        shield, pending = self._choices[index], self._pending[index]
        while pending and all(map(shield.is_clear, pending[0].spans)):
            yield pending.popleft().raw
        if shield.blocked_at is not None:
            yield from self._end_choice(index)

    def _end_choice(self, index: int) -> Iterator[bytes]:
        """Show what is clear of the held events, then the reason for the end."""
        shield = self._choices[index]
        if shield.blocked_at is not None:
            self._record_block(metric_label(shield.blocked_at), shield.caught)
        for event in self._pending.pop(index, ()):
            chunk = event.chunk or json.loads(event_data(event.raw) or b"")
            choice = chunk["choices"][0]
            kept = shield.kept(event.spans, dict(written_texts(choice)))
            if any(kept.values()):
                cut = {**with_texts(choice, kept), "finish_reason": None, "stop_reason": None}
                yield encode_event({**chunk, "choices": [cut]})
        yield self._last_chunk(index)
        self._closed.add(index)

    def _last_chunk(self, index: int) -> bytes:
        said: dict[str, Any] = {"delta": {}} if self._form.chat else {"text": ""}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": FINISH_REASON}
        return encode_event({**self._template, "choices": [choice]})

    def _is_over(self) -> bool:
        """Whether the engine has nothing to add: all choices are closed, one of them by us.

        If only its last chunk tells the usage that the client asked for, that is waited for.
        """
        if self._form.usage_wanted and not self._form.usage_in_chunks:
            return False
        blocked = any(shield.blocked_at is not None for shield in self._choices.values())
        return blocked and len(self._closed) >= self._form.num_choices

    def _flush(self) -> Iterator[bytes]:
        """Decide about choices that the engine left without a finish reason."""
        for index in sorted(self._choices.keys() - self._closed):
            shield = self._choices[index]
            shield.finish()
            if shield.blocked_at is not None:
                yield from self._end_choice(index)
            else:
                yield from (event.raw for event in self._pending.pop(index, ()))

    def _end_filtered(self) -> Iterator[bytes]:
        self._pending.clear()
        for index in range(self._form.num_choices):
            if index not in self._closed:
                yield self._last_chunk(index)
                self._closed.add(index)
        yield from self._end()

    def _end(self) -> Iterator[bytes]:
        self.ended = self.cut_short = True
        if self._form.usage_wanted:
            completion = sum(self._completion_tokens.values())
            usage = {
                "prompt_tokens": self._prompt_tokens,
                "total_tokens": self._prompt_tokens + completion,
                "completion_tokens": completion,
            }
            yield encode_event({**self._template, "choices": [], "usage": usage})
        yield DONE


def _says_only(choice: dict[str, Any], spans: list[Span]) -> bool:
    """Whether a delta holds one text, and nothing else that the shield would have to look at."""
    other = (choice.get(key) for key in ("logprobs", "token_ids", "finish_reason"))
    return len(spans) == 1 and not any(other)
