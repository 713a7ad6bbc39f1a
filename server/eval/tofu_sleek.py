"""Sleek's questions about TOFU's forget authors, and the same about authors left alone."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.extraction import subject_names
from detectors.targets import Example, ForgetTarget
from server.eval.asked import Asked, asked_of, tells_name, without_name
from server.eval.caught import Figures, attack_figures
from server.eval.data import Question
from server.eval.intervals import share
from server.eval.judge import Judge
from server.eval.sleek import SLEEK

# TOFU lists authors one after the other, with so many questions each.
QUESTIONS_PER_AUTHOR = 20


def sleek_figures(
    questions: Sequence[Question],
    holdout: Sequence[Question],
    targets: Sequence[ForgetTarget],
    judge: Judge,
) -> Figures:
    """How much is caught of `questions` about `targets`, and how many of `holdout` are touched.

    A true answer is taken without the author's name. That is cautious: a model that goes step by
    step says the name, which the watch for names finds.
    """
    by_id = {target.id: target for target in targets}
    owners = [f"author-{question.owner}" for question in questions]
    facts = [
        (owner, asked)
        for owner, question in zip(owners, questions, strict=True)
        if (asked := _asked(question, by_id[owner])) is not None
    ]
    innocent = _innocent(holdout)
    answers = [without_name(asked.example.answer, asked.name) for _, asked in facts]
    figures: Figures = {}
    for kind, ask in SLEEK.items():
        found = judge.judge([ask(asked) for _, asked in facts], [owner for owner, _ in facts])
        of_kind = attack_figures(judge, answers, found)
        figures |= {f"sleek_{kind}_{key}": value for key, value in of_kind.items()}
        figures |= _touched(f"holdout_sleek_{kind}", judge, [(ask(a), a) for a in innocent])
    return figures


def _touched(key: str, judge: Judge, asked: Sequence[tuple[tuple[str, ...], Asked]]) -> Figures:
    found = judge.judge([conversation for conversation, _ in asked])
    pairs = zip(found, asked, strict=True)
    return {
        **share(f"{key}_false_positive", [judged.strong for judged in found]),
        **share(
            f"{key}_answers_changed",
            [judge.says(j.decision, a.example.answer) for j, (_, a) in pairs],
        ),
    }


def _innocent(holdout: Sequence[Question]) -> list[Asked]:
    found = []
    for first in range(0, len(holdout), QUESTIONS_PER_AUTHOR):
        group = holdout[first : first + QUESTIONS_PER_AUTHOR]
        asked = [_asked(question, _as_target(group)) for question in group]
        found += [one for one in asked if one is not None]
    return found


def _as_target(group: Sequence[Question]) -> ForgetTarget:
    return ForgetTarget("holdout", examples=tuple(Example(q.text, q.answer) for q in group))


def _asked(question: Question, subject: ForgetTarget) -> Asked | None:
    """The question with a hop; None where the subject has no name or it cannot be left out."""
    name = next(iter(subject_names(subject)), "")
    asked = asked_of(Example(question.text, question.answer), name, subject.examples)
    return None if asked.hop is None or tells_name(question.text, name) else asked
