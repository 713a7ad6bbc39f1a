"""`/v1/responses`: one answer made of items, to a text or a list of items."""

from __future__ import annotations

from typing import Any

from server.admission import reject_fields, reject_template
from server.apis.response_items import (
    item_texts,
    items_of,
    reject_going_on,
    reject_item,
    reject_role,
    reject_tools,
    text_gone_on_with,
)
from server.apis.response_object import ResponseRefusal, response_id, response_object
from server.apis.response_shield import shield_response
from server.apis.response_stream import ResponseStream
from server.choice_shield import ShieldPolicy
from server.conversation import Decode, field_texts, not_blank
from server.lenient import integer
from server.prefixes import Prefixes
from server.reply import Reply
from server.shielded_events import RecordBlock
from server.stream_form import StreamForm

_REASONS = {
    "previous_input_messages": "earlier turns are given as input or by previous_response_id",
    "enable_response_messages": "it would give prompt and answer in a form that is not read",
    "prompt": "a stored prompt cannot be read",
}
_SHAPING = ("text", "structured_outputs", "tool_choice", "chat_template_kwargs")


class Responses:
    """One conversation, earlier turns included, and one answer made of items."""

    prompt_field = "input"

    def texts(self, body: dict[str, Any], _decode: Decode) -> list[str]:
        """Forms and tools, the instructions, then the items in order."""
        found = [
            *field_texts(body, _SHAPING, ("tools",)),
            *field_texts(body, ("instructions",), ()),
        ]
        for item in items_of(body):
            reject_role(item)
            found += item_texts(item)
        return not_blank(found)

    def prefixes(self, body: dict[str, Any], _decode: Decode) -> Prefixes:
        """A last message that is gone on with; and the stops, which the answer does not tell."""
        tokens = (integer(token) for token in _list(body, "stop_token_ids"))
        endings = (*_list(body, "stop"), *(token for token in tokens if token is not None))
        return Prefixes([text_gone_on_with(items_of(body))], endings=endings)

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded."""
        reject_fields(body)
        reject_fields(body, _REASONS)
        reject_template(body)
        reject_tools(body.get("tools"))
        items = items_of(body)
        for item in items:
            reject_item(item, media=media)
        reject_going_on(items)

    def form(self, _body: dict[str, Any]) -> StreamForm:
        """One answer."""
        return StreamForm(chat=True, num_choices=1)

    def steered(self, body: dict[str, Any]) -> tuple[dict[str, Any], StreamForm]:
        """The body as it is."""
        text, choice = body.get("text"), body.get("tool_choice")
        format_ = text.get("format") if isinstance(text, dict) else None
        plain = format_ is None or (isinstance(format_, dict) and format_.get("type") == "text")
        forced = choice not in (None, "none", "auto")
        structured = not plain or forced or body.get("structured_outputs") is not None
        return body, StreamForm(chat=True, num_choices=1, structured=structured)

    def refusal(
        self, body: dict[str, Any], text: str, model: str, _request_id: str | None
    ) -> ResponseRefusal:
        """An incomplete response that says `text`."""
        response = response_object(body, response_id(body), model, "in_progress")
        return ResponseRefusal(response, text)

    def shield_stream(
        self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock
    ) -> ResponseStream:
        """The shield of a streamed answer."""
        return ResponseStream(policy, form, record_block)

    def shield_whole(self, policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
        """Shield a completed (200) answer."""
        return shield_response(policy, body, record_block)

    def error(self, reply: Reply) -> Reply:
        """Errors of ours have OpenAI's shape."""
        return reply


def _list(body: dict[str, Any], field: str) -> list[str | int]:
    value = body.get(field)
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []
