"""Which API is spoken where."""

from __future__ import annotations

from server.apis.api import Api
from server.apis.chat import Chat, ChatBatch
from server.apis.completions import Completions
from server.apis.messages import Messages
from server.apis.responses import Responses
from server.endpoints import Handling

APIS: dict[Handling, Api] = {
    Handling.CHAT: Chat(),
    Handling.CHAT_BATCH: ChatBatch(),
    Handling.COMPLETIONS: Completions(),
    Handling.MESSAGES: Messages(),
    Handling.RESPONSES: Responses(),
}
