"""Every text of a request that reaches the model or shapes what it says.

All roles and turns, names, tool calls and results, tool definitions, documents, template variables,
and the texts of a forced structure (a choice or an enum can spell an answer). A message's parts are
joined as the engine joins them, so that a name split over two parts is seen whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from server.errors import InvalidRequest
from server.media import without_media

Decode = Callable[[Sequence[int]], str]

# No set: a client may send in its place what cannot be hashed.
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Keys and types of the protocol: no evidence, and noise for the encoder.
_PROTOCOL_WORDS = frozenset(
    """
    role content type text name function arguments parameters properties description required id
    tool_call_id tool_calls function_call reasoning reasoning_content refusal index enum items
    object string number integer boolean array null additionalProperties strict schema json_schema
    json_object json regex choice grammar title input_text output_text thinking $ref $defs anyOf
    oneOf allOf const format pattern default
    """.split()  # noqa: SIM905
)
_SHARED_FIELDS = ("response_format", "structured_outputs", "guided_json", "guided_regex")
_SHARED_LISTS = ("guided_choice", "guided_grammar")
_CHAT_FIELDS = ("tool_choice", "chat_template", "chat_template_kwargs")
_CHAT_LISTS = ("tools", "functions", "documents")


def chat_texts(body: dict[str, Any], conversations: Sequence[Any]) -> list[str]:
    """The texts of a body that shapes the answers to these lists of messages.

    Raises:
        InvalidRequest: they have a form that cannot be read.
    """
    found = [*_shared(body), *field_texts(body, _CHAT_FIELDS, _CHAT_LISTS)]
    for messages in conversations:
        found += _messages(messages)
    return not_blank(found)


def completion_texts(body: dict[str, Any], decode: Decode) -> list[str]:
    """The texts of a completion's body.

    Raises:
        InvalidRequest: the prompt has a form that cannot be read.
    """
    prompts = [*prompt_texts(body.get("prompt"), decode), *field_texts(body, ("suffix",), ())]
    return not_blank([*prompts, *_shared(body)])


def not_blank(texts: Iterable[str]) -> list[str]:
    """The texts that hold something."""
    return [text for text in texts if text.strip()]


def objects(value: Any, field: str) -> list[dict[str, Any]]:
    """A field that has to be a list of objects.

    Raises:
        InvalidRequest: it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(element, dict) for element in value):
        raise InvalidRequest(f"{field} must be a list of objects.", param=field)
    return value


def _shared(body: dict[str, Any]) -> Iterator[str]:
    return field_texts(body, _SHARED_FIELDS, _SHARED_LISTS)


def _messages(messages: Any) -> Iterator[str]:
    for message in objects(messages, "messages"):
        yield "\n".join(strings(without_media(message.get("content"))))
        rest = {k: v for k, v in message.items() if k not in ("content", "role")}
        role = message.get("role")
        yield "\n".join([*([] if role in _ROLES else strings(role)), *strings(rest)])


def prompt_texts(prompt: Any, decode: Decode) -> Iterator[str]:
    """The text of each prompt of a completion.

    Raises:
        InvalidRequest: the prompt has a form that cannot be read.
    """
    if prompt is None:
        return
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, list) and all(isinstance(p, str) for p in prompt):
        yield from prompt
    elif _is_token_ids(prompt):
        yield _decoded(prompt, decode)
    elif isinstance(prompt, list) and all(_is_token_ids(p) for p in prompt):
        yield from (_decoded(p, decode) for p in prompt)
    else:
        raise InvalidRequest("prompt must be text or token ids, or a list of one.", param="prompt")


def _is_token_ids(value: Any) -> bool:
    # bool is an int subclass, and the engine would take true as token 1.
    return isinstance(value, list) and all(type(t) is int and t >= 0 for t in value)


def _decoded(token_ids: list[int], decode: Decode) -> str:
    try:
        return decode(token_ids)
    except Exception:
        raise InvalidRequest(
            "prompt holds a token id that does not exist.", param="prompt"
        ) from None


def field_texts(body: dict[str, Any], whole: Iterable[str], lists: Iterable[str]) -> Iterator[str]:
    """A text for each field of `whole`, and one for each element of each field of `lists`."""
    for key in whole:
        yield "\n".join(strings(body.get(key)))
    for key in lists:
        value = body.get(key)
        for element in value if isinstance(value, list) else [value]:
            yield "\n".join(strings(element))


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys included, without the protocol's own words."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if isinstance(item, str):
            if key != "type" or item not in _PROTOCOL_WORDS:
                yield item
            if key == "arguments" and "\\" in item:
                stack.append(("", _json_or_none(item)))
        elif isinstance(item, dict):
            for name, inner in reversed(item.items()):
                stack.append((name, inner))
                if name not in _PROTOCOL_WORDS:
                    stack.append(("", name))
        elif isinstance(item, list):
            stack.extend(("", inner) for inner in reversed(item))


def _json_or_none(text: str) -> Any:
    """Tool-call arguments as the engine shows them to the chat template: parsed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
