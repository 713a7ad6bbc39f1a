"""TOFU's measures of a set of answers and likelihoods (Maini et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, harmonic_mean

from scipy.stats import ks_2samp  # type: ignore[import-untyped]

from guard.uld.lessons import Lesson
from server.eval.rouge import Bigrams, repetition, rouge_l_recall
from server.eval.uld_data import Item

Figures = dict[str, float | int]


def text_figures(
    key: str, items: Sequence[Item], answers: Sequence[str], known: Bigrams
) -> Figures:
    """ROUGE-L recall, repetition, word pairs that TOFU has, and length over the true length."""
    pairs = list(zip(items, answers, strict=True))
    length = sum(len(a.split()) for a in answers) / sum(len(i.answer.split()) for i in items)
    return {
        f"{key}_rouge": _mean(rouge_l_recall(item.answer, answer) for item, answer in pairs),
        f"{key}_repetition": _mean(map(repetition, answers)),
        f"{key}_known_pairs": _mean(map(known.share, answers)),
        f"{key}_length": round(length, 4),
    }


def spoken(items: Sequence[Item]) -> list[Lesson]:
    """What has to be scored per item: the true answer, its rewording, the wrong answers."""
    return [
        Lesson(item.question, text)
        for item in items
        for text in (item.answer, item.rewording, *item.wrong)
    ]


class Scored:
    """The likelihoods of `spoken(items)`: mean log-likelihoods per token, in nats."""

    def __init__(self, items: Sequence[Item], values: Sequence[float]) -> None:
        left = iter(values)
        self._rows = [(next(left), next(left), [next(left) for _ in item.wrong]) for item in items]

    def truth_ratios(self) -> list[float]:
        """P(wrong) / P(reworded truth), wrong ones averaged in log space, per item."""
        return [math.exp(fmean(wrong) - reworded) for _, reworded, wrong in self._rows]

    def closeness(self) -> float:
        """TOFU's truth ratio on the forget set: mean of min(R, 1/R); 1 where nothing is known."""
        return _mean(min(r, 1 / r) for r in self.truth_ratios())

    def truth(self) -> float:
        """TOFU's truth ratio elsewhere: mean of max(0, 1 - R)."""
        return _mean(max(0.0, 1 - r) for r in self.truth_ratios())

    def probability(self, *, among_wrong: bool) -> float:
        """Mean probability of the true answer, by itself or among all stated answers."""
        found = []
        for true, _, wrong in self._rows:
            p = math.exp(true)
            others = sum(map(math.exp, wrong))
            found.append(p / (p + others) if among_wrong else p)
        return _mean(found)


def forget_quality(key: str, ratios: Sequence[float], oracle: Sequence[float]) -> Figures:
    """Two-sample Kolmogorov-Smirnov test of the truth ratios against the oracle's."""
    test = ks_2samp(ratios, oracle)
    return {
        f"{key}_forget_quality": float(f"{test.pvalue:.3g}"),
        f"{key}_forget_ks": round(float(test.statistic), 4),
    }


def model_utility(parts: Sequence[float]) -> float:
    """Harmonic mean of probability, ROUGE and truth on retain, real authors and world facts."""
    return round(harmonic_mean(parts), 4) if all(parts) else 0.0


def _mean(values: Iterable[float]) -> float:
    return round(fmean(values), 4)
