"""`/v1/messages`, Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.admission import reject_fields, reject_template
from server.apis.message_refusal import MessageRefusal
from server.apis.message_shield import shield_message
from server.apis.message_stream import MessageStream
from server.choice_shield import ShieldPolicy
from server.conversation import Decode, field_texts, not_blank, objects, strings
from server.errors import InvalidRequest, UnsupportedFeature
from server.media import is_media, without_media
from server.prefixes import Prefixes, prefill
from server.refusals import answer_id, asked_model
from server.reply import Reply
from server.shielded_events import RecordBlock
from server.sse import encode_json
from server.stream_form import StreamForm

# By status; everything else is the server's fault.
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# A block may say no more than these keys, whose texts are all read.
_BLOCKS = {
    "text": {"text", "citations"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"id", "name", "input", "caller"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "tool_reference": {"name", "tool_name"},
    "tool_addition": {"tool"},
    "tool_removal": {"tool"},
}
_EVERYWHERE = {"type", "cache_control"}
# The engine leaves such a block out of system prompts.
_LEFT_OUT = "x-anthropic-billing-header"


class Messages:
    """One conversation, one answer made of blocks."""

    prompt_field = "messages"

    def texts(self, body: dict[str, Any], _decode: Decode) -> list[str]:
        """Tools and forms, the system prompt, then the messages in order."""
        messages = objects(body.get("messages"), "messages")
        fields = field_texts(
            body, ("tool_choice", "output_config", "chat_template_kwargs"), ("tools",)
        )
        found = [*fields, *_system_texts(body.get("system"), messages)]
        for message in messages:
            found += _message_texts(message)
        return not_blank(found)

    def prefixes(self, body: dict[str, Any], _decode: Decode) -> Prefixes:
        """A last message of the assistant's."""
        return Prefixes([prefill(body["messages"], goes_on=False)])

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded."""
        reject_fields(body)
        reject_template(body)
        for holder in (body.get("system"), *(m.get("content") for m in body["messages"])):
            for block in holder if isinstance(holder, list) else []:
                _reject_block(block, media=media)

    def form(self, _body: dict[str, Any]) -> StreamForm:
        """One answer."""
        return StreamForm(chat=True, num_choices=1)

    def steered(self, body: dict[str, Any]) -> tuple[dict[str, Any], StreamForm]:
        """The body as it is."""
        config, choice = body.get("output_config"), body.get("tool_choice")
        formatted = isinstance(config, dict) and config.get("format") is not None
        forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
        return body, StreamForm(chat=True, num_choices=1, structured=formatted or forced)

    def refusal(
        self, body: dict[str, Any], text: str, model: str, request_id: str | None
    ) -> MessageRefusal:
        """A message that says `text` and stops for `refusal`."""
        id_ = "chatcmpl-" + answer_id({}, request_id)
        return MessageRefusal(id_, asked_model(body, model), text)

    def shield_stream(
        self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock
    ) -> MessageStream:
        """The shield of a streamed answer."""
        return MessageStream(policy, form, record_block)

    def shield_whole(self, policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
        """Shield a completed (200) answer."""
        reply = shield_message(policy, body, record_block)
        return reply if reply.status == 200 else self.error(reply)

    def error(self, reply: Reply) -> Reply:
        """An error of ours in Anthropic's shape."""
        message = json.loads(reply.body)["error"]["message"]
        kind = _ERROR_TYPES.get(reply.status, "api_error")
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return Reply(reply.status, encode_json(body), reply.headers)


def _system_texts(system: Any, messages: list[dict[str, Any]]) -> Iterator[str]:
    """The system prompt as the engine joins it: without a space, with system messages behind."""
    parts = [*_text_parts(system, "system")]
    for message in messages:
        if message.get("role") == "system":
            parts += _text_parts(message.get("content"), "messages")
    yield "".join(part for part in parts if not part.startswith(_LEFT_OUT))
    yield "\n".join(strings(system))


def _text_parts(content: Any, field: str) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif content is not None:
        for block in objects(content, field):
            if isinstance(block.get("text"), str):
                yield block["text"]


def _message_texts(message: dict[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    else:
        blocks = objects(content, "messages")
        yield "\n".join(_text_parts(blocks, "messages"))
        yield "".join(t for b in blocks if isinstance(t := b.get("thinking"), str))
        for block in without_media(blocks):
            yield "\n".join(strings(_unread(block)))
    role = message.get("role")
    if role not in ("user", "assistant", "system"):
        raise InvalidRequest("role must be user, assistant or system.", param="messages")
    yield "\n".join(strings({k: v for k, v in message.items() if k not in ("role", "content")}))


def _unread(block: dict[str, Any]) -> dict[str, Any]:
    """What of a block is not read with its neighbours."""
    return {
        key: without_media(value)
        for key, value in block.items()
        if not isinstance(value, str)
        or key not in ("type", "text", "thinking", "signature", "data")
    }


def _reject_block(block: dict[str, Any], *, media: bool) -> None:
    if media and is_media(block):
        return
    keys = _BLOCKS.get(str(block.get("type")))
    if keys is None or not block.keys() <= keys | _EVERYWHERE:
        raise UnsupportedFeature("Only text content is supported.", param="messages")
    if block["type"] == "tool_result" and isinstance(block.get("content"), list):
        for part in objects(block["content"], "messages"):
            _reject_block(part, media=media)
