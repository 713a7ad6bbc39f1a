"""The input of a response: which items it may hold, what they say, and how a conversation goes on.

What the engine shows the model is read, joined as the engine joins it; what it leaves out (ids, the
other of a reasoning's content and summary) is read where it is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.conversation import objects, strings
from server.errors import InvalidRequest, UnsupportedFeature
from server.media import is_media, without_media

Item = dict[str, Any]

_EVERYWHERE = frozenset({"type", "id", "status"})
# An item may say no more than these keys, whose texts are all read.
ITEMS = {
    "message": {"role", "content", "phase"},
    "reasoning": {"content", "summary"},
    "function_call": {"name", "namespace", "call_id", "arguments"},
    "custom_tool_call": {"name", "namespace", "call_id", "input"},
    "function_call_output": {"call_id", "output"},
    "custom_tool_call_output": {"call_id", "output"},
}
# No set: a client may send in its place what cannot be hashed.
_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_PART_KEYS = frozenset({"type", "text", "annotations", "logprobs"})
_HOLDERS = ("content", "summary", "output")
_GOES_ON = ("in_progress", "incomplete")


def items_of(body: dict[str, Any]) -> list[Item]:
    """The input as a list of items.

    Raises:
        InvalidRequest: it is neither text nor a list of objects.
    """
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return objects(given, "input")


def item_texts(item: Item) -> Iterator[str]:
    """What an item says: its content, then names, arguments and what else there is."""
    for holder in _HOLDERS:
        yield "\n".join(strings(_told(item.get(holder))))
    rest = {k: v for k, v in item.items() if k not in (*_HOLDERS, *_EVERYWHERE, "role", "phase")}
    yield "\n".join(text for key, value in rest.items() for text in _under(key, value))


def reject_item(item: Item, *, media: bool = False) -> None:
    """Refuse an item that cannot be guarded; `media` may pass.

    Raises:
        UnsupportedFeature: it is of another kind, says more than text, or hides it.
    """
    keys = ITEMS.get(_kind(item))
    given = {key for key, value in item.items() if value is not None}
    if keys is None or not given <= keys | _EVERYWHERE:
        raise UnsupportedFeature("Only messages, reasoning and tool calls.", param="input")
    for holder in _HOLDERS:
        content = item.get(holder)
        if isinstance(content, str) or content is None:
            continue
        for part in objects(content, "input"):
            if media and is_media(part):
                continue
            if part.get("type") not in _PARTS or not part.keys() <= _PART_KEYS:
                raise UnsupportedFeature("Only text content is supported.", param="input")


def reject_going_on(items: list[Item]) -> None:
    """Refuse to go on with what is not one text of a message.

    Raises:
        UnsupportedFeature: the last item is to be gone on with, and is not that.
    """
    last = items[-1] if items else {}
    if last.get("status") not in _GOES_ON:
        return
    content = last.get("content")
    one = isinstance(content, str) or (isinstance(content, list) and len(content) == 1)
    if _kind(last) != "message" or not one:
        raise UnsupportedFeature("Only a message of one text is gone on with.", param="input")


def reject_tools(tools: Any) -> None:
    """Refuse tools that the engine would run, or that are no functions.

    Raises:
        InvalidRequest: they are no list of objects.
        UnsupportedFeature: one is not the client's own.
    """
    for tool in objects(tools or [], "tools"):
        kind = tool.get("type")
        if kind == "namespace":
            reject_tools(tool.get("tools"))
        elif kind not in ("function", "custom"):
            raise UnsupportedFeature("Only functions and custom tools.", param="tools")


def reject_role(item: Item) -> None:
    """Refuse a role that templates may print.

    Raises:
        InvalidRequest: the role is none of the API's.
    """
    if "role" in item and item["role"] not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest("role must be user, assistant, system or developer.", param="input")


def text_gone_on_with(items: list[Item]) -> str:
    """What the client has written of the next turn: the last message, if it is the model's."""
    last = items[-1] if items else {}
    if last.get("role") != "assistant" and last.get("status") not in _GOES_ON:
        return ""
    return "\n".join(strings(_told(last.get("content"))))


def continued(items: list[Item], output: list[Item], more: list[Item]) -> list[Item]:
    """A conversation after an answer: what was said before, the answer, what is said now.

    Reasoning is not repeated, nor a call that was cut off.
    """
    return [*items, *(said for item in output for said in _as_input(item)), *more]


def _as_input(item: Item) -> Iterator[Item]:
    kind = _kind(item)
    if kind == "message":
        text = "".join(part["text"] for part in item["content"])
        if text:
            yield {"type": "message", "role": "assistant", "content": text}
    elif kind in ("function_call", "custom_tool_call") and item.get("status") != "incomplete":
        yield {k: v for k, v in item.items() if k in ITEMS[kind] | {"type"} and v is not None}


def _kind(item: Item) -> str:
    kind = item.get("type")
    return str(kind) if kind is not None else "message" if "role" in item else ""


def _told(content: Any) -> Any:
    """The texts of parts, without their log-probabilities, which repeat them."""
    if not isinstance(content, list):
        return content
    return [
        {k: v for k, v in part.items() if v and k not in ("type", "logprobs")}
        if isinstance(part, dict)
        else part
        for part in without_media(content)
    ]


def _under(key: str, value: Any) -> Iterator[str]:
    # Arguments are read as the template may see them, too: parsed.
    return strings({key: value} if key == "arguments" else value)
