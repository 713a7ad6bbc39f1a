"""The models of the ULD evaluation, and how they answer with or without what is subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detectors.encoder import Encoder
from guard.batch import Slot
from guard.compiler import compile_policy
from guard.decision import Decision
from guard.follower import Active
from guard.ledger import LedgerWriter
from guard.params import GuardParams
from guard.policy import Policy
from guard.snapshot import load_snapshot
from guard.steering import Steering
from guard.uld.batch import Edit, answer_all
from guard.uld.lessons import Aim, EncodedLesson, Lesson
from guard.uld.likelihood import mean_log_likelihoods
from guard.uld.speaker import Speaker
from guard.vocabulary import Vocabulary
from server.eval.judge import decide
from server.eval.uld_data import UldData

MAX_TOKENS = 80
_AT_ONCE = 64
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to serve.

    Attributes:
        weight: of the assistant; 0 leaves it out.
        gated: only rows that the classifier finds are steered.
        phrases: found rows also go through the token filter.
    """

    name: str
    weight: float = 0.0
    gated: bool = False
    phrases: bool = False


class Gate:
    """The guard's own policy for the forget authors: its classifier and its token filter."""

    def __init__(self, data: UldData, encoder: Encoder, speaker: Speaker, folder: Path) -> None:
        vocabulary = Vocabulary.from_tokenizer(speaker.tokenizer)
        snapshots = folder / "snapshots"
        snapshots.mkdir()
        compiled = compile_policy(
            data.targets(),
            encoder=encoder,
            vocabulary=vocabulary,
            snapshots=snapshots,
            alpha=0.005,
            progress=lambda _stage, _done: None,
        )
        self._digest = compiled.digest
        snapshot = load_snapshot(snapshots, compiled.digest)
        self._policy = Policy(Active(1, compiled.digest), snapshot, encoder.id)
        self._encoder = encoder
        ledger = LedgerWriter(folder / "facts")
        self._steering = Steering(snapshots, vocabulary, sorted(speaker.end_ids), ledger)

    def decide(self, questions: Sequence[str]) -> list[Decision]:
        """What the gateway would do with each question."""
        return list(decide(self._policy, self._encoder, [(q,) for q in questions]))

    def token_filter(self, prompts: Sequence[Sequence[int]], decisions: Sequence[Decision]) -> Edit:
        """The worker's edit of a batch's logits."""
        slots: list[tuple[int, Slot]] = []

        def edit(logits: torch.Tensor, outputs: Sequence[Sequence[int]]) -> torch.Tensor:
            if not slots:
                for row, (prompt, found) in enumerate(zip(prompts, decisions, strict=True)):
                    params = GuardParams(self._digest, row + 1, found.targets, found.items)
                    opened = self._steering.open_slot(
                        params, prompt, outputs[row], constrained=False
                    )
                    slots.append((row, opened))
            logits = logits.contiguous()
            self._steering.apply(logits, slots)
            return logits

        return edit


class Bench:
    """Base model and assistant; answers and likelihoods of any arm."""

    def __init__(self, speaker: Speaker, assistant: Any, rate: float, gate: Gate) -> None:
        self._speaker, self._assistant, self._rate, self._gate = speaker, assistant, rate, gate
        # Arms share most of what they are scored on.
        self._known: dict[tuple[Lesson, float], float] = {}

    def answers(
        self, arm: Arm, questions: Sequence[str], decisions: Sequence[Decision]
    ) -> list[str]:
        """Greedy answers; a row without weight and filter is answered as by the base model."""
        prompts = [self._speaker.encoder.prompt_ids(question) for question in questions]
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        found = [""] * len(prompts)
        for begin in range(0, len(order), _AT_ONCE):
            places = order[begin : begin + _AT_ONCE]
            batch = [prompts[place] for place in places]
            reached = [decisions[place] for place in places]
            said = answer_all(
                self._speaker.model,
                batch,
                max_tokens=MAX_TOKENS,
                end_ids=self._speaker.end_ids,
                assistant=self._assistant,
                weights=[self.weight(arm, decision) for decision in reached],
                rate=self._rate,
                edit=self._gate.token_filter(batch, reached) if arm.phrases else None,
            )
            for place, tokens in zip(places, said, strict=True):
                found[place] = self._speaker.text(tokens)
        return found

    def weight(self, arm: Arm, decision: Decision) -> float:
        """The assistant's weight in a row: gated arms ask for strong evidence."""
        return 0.0 if arm.gated and not decision.targets else arm.weight

    def likelihoods(
        self, arm: Arm, pairs: Sequence[Lesson], decisions: Sequence[Decision]
    ) -> list[float]:
        """Mean log-likelihood per token of each answer."""
        keys = [(p, self.weight(arm, d)) for p, d in zip(pairs, decisions, strict=True)]
        missing = list(dict.fromkeys(key for key in keys if key not in self._known))
        for weight in {weight for _, weight in missing}:
            asked = [pair for pair, other in missing if other == weight]
            values = mean_log_likelihoods(
                self._speaker.model,
                encode(self._speaker, asked),
                assistant=self._assistant if weight else None,
                weight=weight,
                rate=self._rate,
            )
            self._known |= {(p, weight): value for p, value in zip(asked, values, strict=True)}
        return [self._known[key] for key in keys]


def encode(speaker: Speaker, pairs: Sequence[Lesson]) -> list[EncodedLesson]:
    """Pairs as token ids in the model's chat form."""
    return [speaker.encoder.encode(pair, Aim.FORGET, max_length=_LONGEST) for pair in pairs]
