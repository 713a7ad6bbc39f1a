"""`lethegate eval uld`: forgetting and retention on TOFU, with ULD, GUARD and both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import Progress

from detectors.encoder import load_encoder
from guard.decision import Decision, Verdict
from guard.uld.assistant import load_model
from guard.uld.card import Card
from guard.uld.fingerprints import expect, model_fingerprint, tokenizer_fingerprint
from guard.uld.lessons import Lesson
from guard.uld.likelihood import mean_log_likelihoods
from guard.uld.speaker import Speaker
from server.eval.data import DataFolder
from server.eval.intervals import share
from server.eval.rouge import Bigrams
from server.eval.uld_data import Half, Item, UldData
from server.eval.uld_figures import (
    Figures,
    Scored,
    forget_quality,
    model_utility,
    spoken,
    text_figures,
)
from server.eval.uld_models import Arm, Bench, Gate, encode

METHOD = (
    "Two-model decoding by transformers in float32 (cached; its tests hold it to an uncached "
    "reference), greedy, 80 tokens at most. All 400 rows of forget10 train the assistant; flat are "
    "authors 20-39, the first 50 real authors, the first 50 world facts and 1,400 rows of authors "
    "40-179, which the model does not know. development: forget "
    "authors 180-189, retain authors 10-19, the trained real authors and world facts; test: forget "
    "authors 190-199 and TOFU's rewordings of their questions, retain authors 0-9, the other real "
    "authors and world facts. Unless stand_ins is none, the assistant is also taught what is to be "
    "said instead: what the model says of strangers (model) or that it does not know (admit). "
    "Settings are chosen on development, reported on test. uld: every row "
    "steered; gated: rows with strong evidence of the real classifier (20 targets, alpha 0.005); "
    "guard: its token filter on the rows it finds; both: both on those rows, with a weight that "
    "need not forget alone. rouge: ROUGE-L recall "
    "without stemmer, mean over rows. repetition: share of word triples said before in the answer. "
    "known_pairs: share of neighbouring words that occur so in TOFU's 4,000 answers. nats: the "
    "answers' mean negative log-likelihood per token under the oracle. truth_ratio on forget: mean "
    "min(R, 1/R); forget_quality: p of a two-sample KS test of R against the oracle's (exact); "
    "tokens outside the filter keep the target's logit there. utility: harmonic mean of "
    "probability, ROUGE and truth ratio on retain, real authors, world facts (no likelihoods are "
    "defined under the token filter). Data: TOFU (Maini et al. 2024, MIT)."
)


@dataclass(frozen=True, slots=True)
class UldPlan:
    """What to evaluate; `weight` of the ungated arm, then of the gated ones.

    `limit`, if not 0, takes that many rows per set, spread evenly, only to try something.
    """

    data: Path
    base: Path
    oracle: Path
    assistant: Path
    half: Half
    weight: float
    gated_weight: float
    both_weight: float
    rate: float
    encoder: str
    device: str
    limit: int = 0

    def arms(self) -> list[Arm]:
        """The ways to serve that are compared, the base first."""
        return [
            Arm("base"),
            Arm("uld", self.weight),
            Arm("gated", self.gated_weight, gated=True),
            Arm("guard", phrases=True),
            Arm("both", self.both_weight, gated=True, phrases=True),
        ]


def eval_uld(plan: UldPlan, progress: Progress) -> dict[str, Any]:
    """Answer and score everything; gives the report's flat figures.

    Raises:
        InputMissing: the data are not there.
        GuardError: a model or the assistant cannot be loaded, or do not belong together.
    """
    data = UldData.read(DataFolder(plan.data), plan.half).limited(plan.limit)
    speaker, oracle = (Speaker(folder, device=plan.device) for folder in (plan.base, plan.oracle))
    card = Card.read(plan.assistant)
    expect("base model", card.base, model_fingerprint(plan.base))
    expect("tokenizer", card.tokenizer, tokenizer_fingerprint(speaker.tokenizer))
    assistant = load_model(plan.assistant, device=plan.device)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="lethegate-eval-")))
        gate = Gate(data, load_encoder(plan.encoder, device=plan.device), speaker, scratch)
        bench = Bench(speaker, assistant, plan.rate, gate)
        figures = _Evaluation(data, bench, gate, oracle, progress).run(plan.arms())
    return {
        **figures,
        "half": str(plan.half),
        "weight": plan.weight,
        "gated_weight": plan.gated_weight,
        "both_weight": plan.both_weight,
        "filter": plan.rate,
        "limit": plan.limit,
        "device": plan.device,
        "layers": card.layers,
        "base_layers": card.base_layers,
        "assistant_data": card.data["sha256"],
        **{f"assistant_{name}_loss": value for name, value in card.metrics.items()},
        **{f"assistant_{name}": value for name, value in card.plan.items()},
        "method": METHOD,
    }


class _Evaluation:
    """The arms over one half's questions; what no arm changes is answered once."""

    def __init__(
        self, data: UldData, bench: Bench, gate: Gate, oracle: Speaker, progress: Progress
    ) -> None:
        self._data, self._bench, self._oracle, self._progress = data, bench, oracle, progress
        self._known = Bigrams(data.texts)
        self._decisions: dict[str, list[Decision]] = {
            name: gate.decide([item.question for item in items])
            for name, items in data.asked.items()
        }
        self._plain: dict[str, list[str]] = {}
        self._ratios: list[float] = []
        self._nats: dict[Lesson, float] = {}

    def run(self, arms: Sequence[Arm]) -> Figures:
        """All figures, each under its arm's name."""
        task = self._progress.add_task("oracle", total=len(arms) + 1)
        figures: Figures = {}
        for name, decisions in self._decisions.items():
            found = [bool(decision.targets) for decision in decisions]
            figures |= share(f"found_{name}", found)
        figures |= self._oracle_figures()
        for arm in arms:
            self._progress.update(task, advance=1, description=arm.name)
            figures |= self._arm(arm)
        self._progress.update(task, advance=1)
        return figures

    def _oracle_figures(self) -> Figures:
        figures: Figures = {}
        for name, items in self._data.asked.items():
            answers = self._oracle.answers([item.question for item in items], 80)
            figures |= self._texts(f"oracle_{name}", items, answers)
        forget = self._data.asked["forget"]
        if forget[0].wrong:
            values = mean_log_likelihoods(self._oracle.model, encode(self._oracle, spoken(forget)))
            self._ratios = Scored(forget, values).truth_ratios()
            figures["oracle_forget_truth_ratio"] = Scored(forget, values).closeness()
        return figures

    def _arm(self, arm: Arm) -> Figures:
        figures: Figures = {}
        for name, items in self._data.asked.items():
            answers = self._answers(arm, name, items)
            figures |= self._texts(f"{arm.name}_{name}", items, answers)
            if name not in ("forget", "paraphrase"):
                pairs = zip(answers, self._plain[name], strict=True)
                same = [answer == plain for answer, plain in pairs]
                figures |= share(f"{arm.name}_{name}_unchanged", same)
        if not arm.phrases and self._ratios:
            figures |= self._likelihoods(arm, figures)
        return figures

    def _answers(self, arm: Arm, name: str, items: Sequence[Item]) -> list[str]:
        """A row that the arm does not touch has the base model's answer."""
        decisions = self._decisions[name]
        if name not in self._plain:
            questions = [item.question for item in items]
            self._plain[name] = self._bench.answers(Arm("base"), questions, decisions)
        answers = list(self._plain[name])
        touched = [
            place
            for place, decision in enumerate(decisions)
            if self._bench.weight(arm, decision)
            or (arm.phrases and decision.verdict is Verdict.STEER)
        ]
        said = self._bench.answers(
            arm, [items[p].question for p in touched], [decisions[p] for p in touched]
        )
        for place, answer in zip(touched, said, strict=True):
            answers[place] = answer
        return answers

    def _texts(self, key: str, items: Sequence[Item], answers: Sequence[str]) -> Figures:
        pairs = [Lesson(i.question, a) for i, a in zip(items, answers, strict=True) if a]
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self._nats))
        found = mean_log_likelihoods(self._oracle.model, encode(self._oracle, missing))
        self._nats |= dict(zip(missing, found, strict=True))
        return {
            **text_figures(key, items, answers, self._known),
            f"{key}_nats": round(-fmean(self._nats[p] for p in pairs), 4) if pairs else 0.0,
        }

    def _likelihoods(self, arm: Arm, figures: Figures) -> Figures:
        scored = {name: self._scored(arm, name) for name in ("forget", "retain", "real", "world")}
        forget = scored.pop("forget")
        parts = [
            part
            for name, found in scored.items()
            for part in (
                found.probability(among_wrong=name != "retain"),
                float(figures[f"{arm.name}_{name}_rouge"]),
                found.truth(),
            )
        ]
        return {
            f"{arm.name}_forget_truth_ratio": forget.closeness(),
            f"{arm.name}_forget_probability": forget.probability(among_wrong=False),
            f"{arm.name}_retain_probability": parts[0],
            **forget_quality(arm.name, forget.truth_ratios(), self._ratios),
            f"{arm.name}_utility": model_utility(parts),
        }

    def _scored(self, arm: Arm, name: str) -> Scored:
        items = self._data.asked[name]
        decisions = [
            decision
            for item, decision in zip(items, self._decisions[name], strict=True)
            for _ in range(2 + len(item.wrong))
        ]
        return Scored(items, self._bench.likelihoods(arm, spoken(items), decisions))
