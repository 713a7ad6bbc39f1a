"""What chat completions, batches of them and completions have in common: OpenAI's answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from server.apis.openai_form import own_form, steered_form
from server.choice_shield import ShieldPolicy
from server.refusals import Refusal
from server.reply import Reply
from server.shielded_events import RecordBlock
from server.stream_form import StreamForm
from server.stream_shield import StreamShield
from server.whole_shield import shield_completion


class OpenAiAnswers(ABC):
    """The answers' side of an API whose answers are a list of choices."""

    chat: bool

    @abstractmethod
    def num_choices(self, body: dict[str, Any]) -> int:
        """How many choices a valid request gets."""

    def form(self, body: dict[str, Any]) -> StreamForm:
        """What the answer to the client's own body looks like."""
        return own_form(body, chat=self.chat, num_choices=self.num_choices(body))

    def steered(self, body: dict[str, Any]) -> tuple[dict[str, Any], StreamForm]:
        """The body that the guard's parameters are added to, and what its answer looks like."""
        return steered_form(body, chat=self.chat, num_choices=self.num_choices(body))

    def refusal(
        self, body: dict[str, Any], text: str, model: str, request_id: str | None
    ) -> Refusal:
        """A refusal of a client's body that says `text`."""
        num_choices = self.num_choices(body)
        return Refusal.of(body, text, model, request_id, chat=self.chat, num_choices=num_choices)

    def shield_stream(
        self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock
    ) -> StreamShield:
        """The shield of a streamed answer."""
        return StreamShield(policy, form, record_block)

    def shield_whole(self, policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
        """Shield a completed (200) answer; unchanged bytes if there is nothing to hide."""
        return shield_completion(policy, body, record_block)

    def error(self, reply: Reply) -> Reply:
        """Errors of ours have OpenAI's shape."""
        return reply
