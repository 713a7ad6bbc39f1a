"""`/v1/chat/completions`, and a batch of conversations in one request."""

from __future__ import annotations

from typing import Any

from server.admission import reject_chat
from server.apis.openai_answers import OpenAiAnswers
from server.apis.openai_form import choices_per_prompt
from server.conversation import Decode, chat_texts
from server.errors import InvalidRequest
from server.prefixes import Prefixes, prefill


class Chat(OpenAiAnswers):
    """One conversation."""

    chat = True
    prompt_field = "messages"

    def texts(self, body: dict[str, Any], _decode: Decode) -> list[str]:
        """Tools and forms, then the messages in order."""
        return chat_texts(body, [body.get("messages")])

    def prefixes(self, body: dict[str, Any], _decode: Decode) -> Prefixes:
        """A last message that is gone on with, for all choices."""
        return Prefixes([_prefill(body, body["messages"])], choices_per_prompt(body))

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded."""
        reject_chat(body, body["messages"], media=media)

    def num_choices(self, body: dict[str, Any]) -> int:
        """As many as asked for."""
        return choices_per_prompt(body)


class ChatBatch(OpenAiAnswers):
    """Many conversations with one choice each, never streamed. They are judged together."""

    chat = True
    prompt_field = "messages"

    def texts(self, body: dict[str, Any], _decode: Decode) -> list[str]:
        """Forms, then the messages of all conversations in order."""
        return chat_texts(body, _conversations(body))

    def prefixes(self, body: dict[str, Any], _decode: Decode) -> Prefixes:
        """The last messages that are gone on with."""
        return Prefixes([_prefill(body, messages) for messages in _conversations(body)])

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded."""
        every = [message for messages in _conversations(body) for message in messages]
        reject_chat(body, every, media=media)

    def num_choices(self, body: dict[str, Any]) -> int:
        """One for each conversation."""
        return max(1, len(_conversations(body)))


def _prefill(body: dict[str, Any], messages: list[Any]) -> str:
    return prefill(messages, goes_on=bool(body.get("continue_final_message")))


def _conversations(body: dict[str, Any]) -> list[Any]:
    conversations = body.get("messages")
    if not isinstance(conversations, list):
        raise InvalidRequest("messages must be a list of conversations.", param="messages")
    return conversations
