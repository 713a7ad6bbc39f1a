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

    Hops are among `questions`, so none repeats what is registered. A true answer is taken without
    the author's name. That is cautious: a model that goes step by step says the name, which the
    watch for names finds.
    """
    facts = [
        (target.id, asked)
        for target in targets
        for asked in _asked([q for q in questions if f"author-{q.owner}" == target.id], target)
    ]
    starts = range(0, len(holdout), QUESTIONS_PER_AUTHOR)
    authors = [holdout[start : start + QUESTIONS_PER_AUTHOR] for start in starts]
    innocent = [asked for author in authors for asked in _asked(author, _as_target(author))]
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


def _as_target(author: Sequence[Question]) -> ForgetTarget:
    return ForgetTarget("holdout", examples=_examples(author))


def _asked(questions: Sequence[Question], subject: ForgetTarget) -> list[Asked]:
    """The questions that can be asked without the subject's name, each with a hop out of them."""
    name = next(iter(subject_names(subject)), "")
    known = _examples(questions)
    asked = [asked_of(example, name, known) for example in known]
    return [a for a in asked if a.hop is not None and not tells_name(a.question, name)]


def _examples(questions: Sequence[Question]) -> tuple[Example, ...]:
    return tuple(Example(question.text, question.answer) for question in questions)
