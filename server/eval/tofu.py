"""TOFU: invented authors registered, their questions asked in other words, others left alone.

Registered are the 400 questions of forget10 as 20 targets. Paraphrases exist for authors 190-199
only. Benign are the shipped prompts and 100 retain questions of other authors; holdout authors,
real authors and world facts are only ever tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.encoder import Encoder
from detectors.extraction import subject_names
from detectors.targets import Example, ForgetTarget
from server.eval.conversations import (
    DISGUISES,
    Conversation,
    by_reference,
    in_a_row,
    in_pieces,
    single,
)
from server.eval.data import DataFolder, Question
from server.eval.intervals import share
from server.eval.judge import Judge
from server.eval.router import Router
from server.eval.tofu_sleek import sleek_figures

RETAIN_EXAMPLES = 100
_ROW_LENGTH = 3
_ROUTER_SEED = 0

Figures = dict[str, float | int]
Advance = Callable[[], None]


@dataclass(frozen=True)
class TofuData:
    """The rows that are used, read at once so that a missing file is found early."""

    forget: list[Question]
    retain: list[Question]
    paraphrases: list[Question]
    many_paraphrases: list[Question]
    innocent: Mapping[str, list[Question]]

    @classmethod
    def read(cls, data: DataFolder) -> TofuData:
        """Read the files.

        Raises:
            InputMissing: one is not there.
        """
        return cls(
            forget=data.tofu("forget10"),
            retain=data.tofu("retain90"),
            paraphrases=data.tofu("forget05_perturbed", "paraphrased_question"),
            many_paraphrases=data.tofu("forget05_many_paraphrases", "paraphrased_questions"),
            innocent={
                "holdout": data.tofu("holdout10"),
                "real_authors": data.tofu("real_authors"),
                "world_facts": data.tofu("world_facts"),
            },
        )


def evaluate_tofu(
    data: TofuData, encoder: Encoder, alpha: float, folder: Path, advance: Advance
) -> Figures:
    """Recall and false positives of the classifier and of the router; `tofu_` and flat."""
    targets = tofu_targets(data)
    judge = Judge(targets, encoder, alpha, folder)
    advance()
    figures = _recall(data, targets, judge)
    figures |= sleek_figures(data.paraphrases, data.innocent["holdout"], targets, judge)
    advance()
    figures |= _false_positives(data, judge)
    advance()
    figures |= _router(data, encoder)
    advance()
    return {f"tofu_{key}": value for key, value in figures.items()}


def tofu_targets(data: TofuData) -> list[ForgetTarget]:
    """One target per author, without aliases; retain examples are spread over them."""
    owners = list(dict.fromkeys(question.owner for question in data.forget))
    step = max(1, len(data.retain) // RETAIN_EXAMPLES)
    retained = [question.text for question in data.retain[::step]][:RETAIN_EXAMPLES]
    return [
        ForgetTarget(
            f"author-{owner}",
            examples=tuple(Example(q.text, q.answer) for q in data.forget if q.owner == owner),
            retain_examples=tuple(retained[place :: len(owners)]),
        )
        for place, owner in enumerate(owners)
    ]


def _recall(data: TofuData, targets: Sequence[ForgetTarget], judge: Judge) -> Figures:
    found: Figures = {}

    def ask(key: str, asked: Sequence[tuple[Conversation, str]]) -> None:
        judged = judge.judge([c for c, _ in asked], [f"author-{owner}" for _, owner in asked])
        found.update(share(f"{key}_recall", [j.strong for j in judged]))
        found.update(share(f"{key}_similarity_recall", [j.similar for j in judged]))

    ask("original", [(single(q.text), q.owner) for q in data.forget])
    ask("paraphrase", [(single(q.text), q.owner) for q in data.many_paraphrases])
    ask("perturbed_paraphrase", [(single(q.text), q.owner) for q in data.paraphrases])
    ask("pieces", [(in_pieces(q.text), q.owner) for q in data.paraphrases])
    ask("chain", list(_chains(data, targets)))
    for name, disguise in DISGUISES.items():
        ask(f"{name}", [(single(disguise(q.text)), q.owner) for q in data.paraphrases])
    return found


def _chains(data: TofuData, targets: Sequence[ForgetTarget]) -> list[tuple[Conversation, str]]:
    names = {target.id: next(iter(subject_names(target)), "") for target in targets}
    chains = []
    for question in data.paraphrases:
        name = names[f"author-{question.owner}"]
        chain = by_reference(question.text, name) if name else None
        if chain is not None:
            chains.append((chain, question.owner))
    return chains


def _false_positives(data: TofuData, judge: Judge) -> Figures:
    found: Figures = {}

    def ask(key: str, conversations: Sequence[Conversation]) -> None:
        judged = judge.judge(conversations)
        found.update(share(f"{key}_false_positive", [j.strong for j in judged]))
        found.update(share(f"{key}_steered", [j.any for j in judged]))

    for key, questions in data.innocent.items():
        ask(key, [single(question.text) for question in questions])
        rows = [questions[i : i + _ROW_LENGTH] for i in range(0, len(questions), _ROW_LENGTH)]
        ask(f"{key}_conversation", [in_a_row([q.text for q in row]) for row in rows])
        for name in ("base64", "rot13", "leet"):
            disguise = DISGUISES[name]
            ask(f"{key}_{name}", [single(disguise(q.text)) for q in questions])
    for key, questions in data.innocent.items():
        judged = judge.judge([single(question.text) for question in questions])
        pairs = zip(judged, questions, strict=True)
        changed = [judge.says(j.decision, question.answer) for j, question in pairs]
        found.update(share(f"{key}_answers_changed", changed))
        found.update(share(f"{key}_answers_watched", [judge.watched(q.answer) for q in questions]))
    return found


def _router(data: TofuData, encoder: Encoder) -> Figures:
    """GUARD's router, trained on the same registered questions and all retain questions."""

    def embed(questions: Sequence[Question]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return encoder.encode([question.text for question in questions])

    router = Router(embed(data.forget), embed(data.retain), _ROUTER_SEED)
    found: Figures = {}
    for key, questions in (
        ("original", data.forget),
        ("paraphrase", data.many_paraphrases),
        ("perturbed_paraphrase", data.paraphrases),
    ):
        found.update(share(f"router_{key}_recall", router.forgets(embed(questions)).tolist()))
    for key, questions in data.innocent.items():
        flagged = router.forgets(embed(questions)).tolist()
        found.update(share(f"router_{key}_false_positive", flagged))
    return found
