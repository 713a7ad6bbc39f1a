"""The guard under evaluation: a policy compiled as the server compiles it, asked without a server.

Embeddings come from the real encoder in batches; nothing else differs from a gateway's screening.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.classifier import prompt_windows
from detectors.detection import Layer, Strength
from detectors.encoder import Encoder
from detectors.targets import ForgetTarget
from guard.compiler import compile_policy
from guard.decision import Decision
from guard.follower import Active
from guard.key_scope import ALL_TARGETS
from guard.policy import Policy
from guard.snapshot import load_snapshot
from guard.vocabulary import Vocabulary

# Phrases are compiled for tokens of one byte: which tokens a model has does not matter here.
_BYTES = Vocabulary([None, *(bytes([value]) for value in range(256))])
_AT_ONCE = 256

Conversation = Sequence[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guard found in one conversation.

    `strong` and `any` say whether a detection of the wanted target has that strength (of any target
    where none is wanted), `similar` whether it is strong without an alias.
    """

    decision: Decision
    strong: bool
    any: bool
    similar: bool


class Judge:
    """A policy for some targets."""

    def __init__(
        self, targets: Sequence[ForgetTarget], encoder: Encoder, alpha: float, folder: Path
    ) -> None:
        compiled = compile_policy(
            targets,
            encoder=encoder,
            vocabulary=_BYTES,
            snapshots=folder,
            alpha=alpha,
            progress=lambda _stage, _done: None,
        )
        snapshot = load_snapshot(folder, compiled.digest)
        self._policy = Policy(Active(1, compiled.digest), snapshot, encoder.id)
        self._encoder = encoder
        self.reports = compiled.reports

    def judge(
        self, conversations: Sequence[Conversation], wanted: Sequence[str] | None = None
    ) -> list[Judged]:
        """Judge each conversation; `wanted` names the target that each should be about."""
        judged: list[Judged] = []
        for first in range(0, len(conversations), _AT_ONCE):
            part = conversations[first : first + _AT_ONCE]
            for offset, decision in enumerate(decide(self._policy, self._encoder, part)):
                target = None if wanted is None else wanted[first + offset]
                judged.append(_judged(decision, target))
        return judged

    def says(self, decision: Decision, answer: str) -> bool:
        """Whether an answer holds a phrase that the decision forbids."""
        return any(matcher.find(answer) for matcher in self._policy.matchers(decision))

    def watched(self, answer: str) -> bool:
        """Whether an answer holds a phrase that is watched in every answer."""
        return self._policy.watches(ALL_TARGETS).enforced.find(answer) is not None


def decide(
    policy: Policy, encoder: Encoder, conversations: Sequence[Conversation]
) -> Iterable[Decision]:
    """What a policy decides on each conversation."""
    windows = [prompt_windows(texts) for texts in conversations]
    wanted = list(dict.fromkeys(window for listed in windows for window in listed))
    rows = dict(zip(wanted, encoder.encode(wanted), strict=True))
    for texts, listed in zip(conversations, windows, strict=True):
        found = [rows[window] for window in listed]
        matrix = np.stack(found) if found else np.zeros((0, encoder.dimension), np.float32)
        yield policy.decide(policy.classify(texts, matrix))


def _judged(decision: Decision, target: str | None) -> Judged:
    found = [d for d in decision.detections if target is None or d.target_id == target]
    strong = [d for d in found if d.strength is Strength.STRONG]
    similar = any(d.layer is Layer.SIMILARITY for d in strong)
    return Judged(decision, bool(strong), bool(found), similar)
