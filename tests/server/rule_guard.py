"""A guard with fixed rules, and the view of a policy that it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from detectors.targets import Enforcement, Phrase
from guard.decision import Decision, Verdict
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.ledger import CloseReason
from guard.nets import AnswerNets, Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield

DIGEST = "d" * 64


@dataclass(frozen=True)
class View:
    """A policy in force."""

    generation: int = 7
    enforces: bool = True

    def enforces_for(self, scope: KeyScope) -> bool:
        """Whether any target is enforced against a key."""
        return self.enforces and scope.enforcement is Enforcement.ENFORCE


@dataclass
class RuleGuard:
    """A guard with fixed rules: a text with `verdicts`' key gets its verdict."""

    view: View | None = field(default_factory=View)
    verdicts: dict[str, Verdict] = field(
        default_factory=lambda: {"about John": Verdict.STEER, "about Mary": Verdict.REFUSE}
    )
    forbidden: list[Phrase] = field(default_factory=lambda: [Phrase("John Smith")])
    names: list[Phrase] = field(default_factory=list)
    observed_names: list[Phrase] = field(default_factory=list)
    nets_error: Exception | None = None
    error: Exception | None = None
    seconds: float = 0.0
    missing: list[str] = field(default_factory=list)
    close_reason: CloseReason | None = None
    prevented_steps: int = 0
    screened: list[list[str]] = field(default_factory=list)
    scopes: list[KeyScope] = field(default_factory=list)
    nonces: list[int] = field(default_factory=list)

    def current(self) -> View | None:
        """The policy in force."""
        return self.view

    def unready(self) -> list[str]:
        """Parts that are not ready."""
        return self.missing

    async def screen(self, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Decision:
        """Decide by the rules."""
        self.screened.append(list(texts))
        self.scopes.append(scope)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        assert self.view is not None
        found = [v for key, v in self.verdicts.items() if any(key in text for text in texts)]
        verdict = found[0] if found else Verdict.ALLOW
        targets = (0,) if verdict is Verdict.STEER else ()
        decided = Decision(verdict, self.view.generation, DIGEST, targets=targets, scope=scope)
        if scope.enforcement is Enforcement.ENFORCE:
            return decided
        return replace(decided, verdict=Verdict.ALLOW, targets=(), would=decided)

    def nets(self, decision: Decision, request_id: str = "") -> AnswerNets:
        """All forbidden phrases in steered answers, names in every answer."""
        if self.nets_error is not None:
            raise self.nets_error
        judged = decision.would or decision
        phrases = self.forbidden if judged.verdict is Verdict.STEER else []
        matchers = [PhraseMatcher(phrases), PhraseMatcher(self.names, Catch.NAME)]
        observed = [PhraseMatcher(self.observed_names, Catch.NAME)]
        nets = AnswerNets(
            (lambda: OutputShield(matchers),) if any(matchers) else (),
            (lambda: OutputShield(observed),) if any(observed) else (),
        )
        return nets if decision.would is None else AnswerNets((), nets.enforced + nets.observed)

    def closed(self, nonce: int) -> CloseReason | None:
        """The reason that the test gave."""
        self.nonces.append(nonce)
        return self.close_reason

    def prevented(self, nonce: int) -> int:
        """What the test gave."""
        return self.prevented_steps
