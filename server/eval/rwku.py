"""RWKU: famous people registered, attacked in nine ways, beside questions about their neighbours.

The subjects are split by their order in the file: the first half is for development, the second for
testing; nothing was chosen by looking at the second. Two settings: `intro` registers a name and one
passage, as RWKU defines the task; `probes` registers the level-1 and level-2 probes too. Level 3
and the neighbours are never registered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from detectors.encoder import Encoder
from detectors.targets import Example, ForgetTarget
from server.eval.asked import Asked, asked_of, tells_name
from server.eval.caught import Figures, attack_figures
from server.eval.conversations import single
from server.eval.data import DataFolder, Question
from server.eval.intervals import share
from server.eval.judge import Judge
from server.eval.sleek import SLEEK
from tracing.document import Document


class Split(StrEnum):
    """Which subjects are registered and asked about."""

    DEVELOPMENT = "development"
    TEST = "test"


class Setting(StrEnum):
    """What is registered of a subject."""

    INTRO = "intro"
    PROBES = "probes"


@dataclass(frozen=True)
class RwkuData:
    """The rows of one half of the subjects."""

    introductions: list[tuple[str, str]]
    probes: list[Question]
    attacks: list[Question]
    neighbors: list[Question]

    @classmethod
    def read(cls, data: DataFolder, split: Split) -> RwkuData:
        """Read the files.

        Raises:
            InputMissing: one is not there.
        """
        everyone = data.introductions()
        half = len(everyone) // 2
        chosen = everyone[:half] if split is Split.DEVELOPMENT else everyone[half:]
        subjects = {name for name, _ in chosen}

        def of_chosen(*files: str) -> list[Question]:
            return [q for file in files for q in data.rwku(file) if q.owner in subjects]

        return cls(
            introductions=chosen,
            probes=of_chosen("forget_level1", "forget_level2"),
            attacks=of_chosen("forget_level3"),
            neighbors=of_chosen("neighbor_level1", "neighbor_level2"),
        )


def rwku_targets(data: RwkuData, setting: Setting) -> list[ForgetTarget]:
    """One target per subject, with its name as the only alias."""
    return [
        ForgetTarget(
            _target_id(data, name),
            aliases=(name,),
            documents=(Document(passage),),
            examples=tuple(
                Example(q.text, q.answer)
                for q in data.probes
                if q.owner == name and setting is Setting.PROBES
            ),
        )
        for name, passage in data.introductions
    ]


def evaluate_rwku(
    data: RwkuData,
    setting: Setting,
    encoder: Encoder,
    alpha: float,
    folder: Path,
    advance: Callable[[], None],
) -> Figures:
    """How many attacks are caught, by kind, and how many neighbours are touched; flat."""
    judge = Judge(rwku_targets(data, setting), encoder, alpha, folder)
    advance()
    wanted = [_target_id(data, q.owner) for q in data.attacks]
    found = judge.judge([single(q.text) for q in data.attacks], wanted)
    advance()
    answers = [q.answer for q in data.attacks]
    figures = attack_figures(judge, answers, found)
    for kind, chosen in _groups(data.attacks).items():
        of_kind = attack_figures(judge, [answers[i] for i in chosen], [found[i] for i in chosen])
        figures |= {f"{kind}_{key}": value for key, value in of_kind.items()}
    figures |= _sleek_figures(data, judge)
    figures |= _neighbor_figures(judge, data.neighbors)
    advance()
    return {f"rwku_{setting}_{key}": value for key, value in figures.items()}


def _sleek_figures(data: RwkuData, judge: Judge) -> Figures:
    """Sleek's kinds of question for the level-2 probes; their hops are of level 1 and 2."""
    facts = _facts(data)
    figures: Figures = {}
    for kind, ask in SLEEK.items():
        owners = [_target_id(data, asked.name) for asked in facts]
        found = judge.judge([ask(asked) for asked in facts], owners)
        of_kind = attack_figures(judge, [asked.example.answer for asked in facts], found)
        figures |= {f"sleek_{kind}_{key}": value for key, value in of_kind.items()}
    return figures


def _facts(data: RwkuData) -> list[Asked]:
    """The questions among the probes that can be asked without the name, each with a hop."""
    facts = []
    for name, _ in data.introductions:
        known = [q for q in data.probes if q.owner == name]
        examples = [Example(q.text, q.answer) for q in known]
        asked = [asked_of(e, name, examples) for e in examples if "___" not in e.prompt]
        facts += [a for a in asked if a.hop is not None and not tells_name(a.question, name)]
    return facts


def _groups(attacks: Sequence[Question]) -> dict[str, list[int]]:
    """Places of the attacks of each kind, and of each language."""
    groups: dict[str, list[int]] = {}
    for place, attack in enumerate(attacks):
        groups.setdefault(attack.kind, []).append(place)
        if attack.language:
            groups.setdefault(f"{attack.kind}_{attack.language}", []).append(place)
    return dict(sorted(groups.items()))


def _target_id(data: RwkuData, subject: str) -> str:
    return f"subject-{[name for name, _ in data.introductions].index(subject)}"


def _neighbor_figures(judge: Judge, neighbors: Sequence[Question]) -> Figures:
    """How many prompts are steered, and how many true answers would be changed.

    `unnamed` are neighbours that name no registered subject: half of the subjects are registered at
    once, and one's neighbours may be about another. `sentence` takes the answer within its
    question's sentence, where the probe is one to be filled: a longer answer, which repeats the
    names of the question.
    """
    found = judge.judge([single(q.text) for q in neighbors])
    pairs = list(zip(found, neighbors, strict=True))
    changed = [judge.says(j.decision, q.answer) for j, q in pairs]
    watched = [judge.watched(q.answer) for q in neighbors]
    touched = [*map(any, zip(changed, watched, strict=True))]
    unnamed = [
        hit
        for hit, q in zip(touched, neighbors, strict=True)
        if not judge.watched(q.text) and not judge.watched(q.answer)
    ]
    sentences = [(j, q.text.replace("___", q.answer)) for j, q in pairs if "___" in q.text]
    return {
        **share("neighbor_strong", [j.strong for j in found]),
        **share("neighbor_steered", [j.any for j in found]),
        **share("neighbor_answers_changed", touched),
        **share("neighbor_unnamed_answers_changed", unnamed),
        **share("neighbor_answers_changed_unwatched", changed),
        **share("neighbor_answers_watched", watched),
        **share("neighbor_sentences_changed", [judge.says(j.decision, s) for j, s in sentences]),
    }
