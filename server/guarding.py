"""What the gateway needs from others, as protocols: who decides, and which engine is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guard.decision import Decision
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.ledger import CloseReason
from guard.nets import AnswerNets
from server.conversation import Decode


class PolicyView(Protocol):
    """The policy in force, as far as the gateway must know it."""

    @property
    def generation(self) -> int:
        """The activation's number."""

    def enforces_for(self, scope: KeyScope) -> bool:
        """Whether any target is enforced (not only observed) against a key of this scope."""


class Guard(Protocol):
    """Who decides."""

    def current(self) -> PolicyView | None:
        """The policy in force; None while there is none."""

    def unready(self) -> Sequence[str]:
        """Names of the parts that are not ready (`policy`, `classifier`)."""

    async def screen(self, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Decision:
        """Decide about a request of a key with this scope, without blocking the event loop.

        Raises:
            Overloaded: too many requests wait already.
            GuardTimeout: what decides hangs.
            Exception: anything else means that no decision could be made.
        """

    def nets(self, decision: Decision, request_id: str = "") -> AnswerNets:
        """What the answer to a request is checked by; `request_id` is for the record of blocks.

        Without nets the answer to an allowed request passes unread.

        Raises:
            Exception: the answer cannot be checked, so there may be none.
        """

    def closed(self, nonce: int) -> CloseReason | None:
        """Why the worker closed the slot of a request; None if it did not."""

    def prevented(self, nonce: int) -> int:
        """In how many steps a request could not complete a phrase it had begun."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The model behind the inner app: its name, and its tokenizer's way from ids to text.

    `decode` must keep special tokens and must not tidy spaces.
    """

    model: str
    decode: Decode
