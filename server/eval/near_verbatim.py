"""`lethegate eval near-verbatim`: which edited copies of a registered passage each layer stops."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import Progress

from detectors.extraction import Reason, extract
from detectors.normaliser import fold
from detectors.targets import ForgetTarget, Phrase
from guard.background import background, word_view
from guard.nets import Net
from guard.phrase_matcher import PhraseMatcher
from guard.semantic_forms import cut, inflections, romanisations
from guard.shield import OutputShield
from guard.tokenisations import Tokenisations
from guard.trace_shield import TraceShield
from server.bench.errors import InputMissing
from server.bench.vocabularies import RealVocabulary, byte_level, tekken
from server.eval.data import DataFolder
from server.eval.edits import EDITS
from server.eval.intervals import share
from server.provenance.thresholds import calibrated
from tracing.document import Document
from tracing.index import Index
from tracing.judge import Finding, Judge, Watched
from tracing.successors import SuccessorTable, compile_successors

METHOD = (
    "Passages: TOFU's answers about an author, four by four; registered are those of the first "
    "half of the authors, each as a document. Each is given back edited (see "
    "server/eval/edits.py), whole, without a prompt. caught: the layer ends or alters the answer;"
    " shown: the median share of characters (veto: tokens) that stood before that, 1 where it "
    "never comes. words: TraceShield, default limits, threshold calibrated. veto: teacher-forced,"
    " n-grams of the stated number of tokens, of the vocabulary named (tekken: Mistral's, 131,072"
    " tokens); split: every fifth word in single characters' tokens. phrases: names, titles, "
    "numbers, dates and rare words extracted from the passage, as a target with this document "
    "alone would forbid; forms: besides these other romanisations, inflections and cut-off "
    "endings (the semantic filter's rules; near meanings need the encoder and are not counted). "
    "false_positive: passages of the other authors, never registered, that TraceShield ends. "
    "retained_: the same with every other of them as a retain corpus, the rest tested. "
    "Data: TOFU (Maini et al. 2024, MIT)."
)
_VOCABULARIES = {"tekken": tekken, "byte_level": byte_level}
_ANSWERS = 4
_PIECE = 24
_HOLDBACK = 2000


@dataclass(frozen=True, slots=True)
class NearVerbatimPlan:
    """What to evaluate; `minimum` in words, `tokens` in tokens, at most `passages` registered."""

    data: Path
    minimum: int = 8
    tokens: int = 12
    passages: int = 200
    vocabulary: str = "tekken"


@dataclass(frozen=True, slots=True)
class _Outcome:
    caught: bool
    shown: float


def eval_near_verbatim(plan: NearVerbatimPlan, progress: Progress) -> dict[str, Any]:
    """Measure; gives the report's flat figures.

    Raises:
        InputMissing: the data are not there.
    """
    passages = _passages(DataFolder(plan.data))
    half = len(passages) // 2
    registered, others = passages[:half][: plan.passages], passages[half:][: plan.passages]
    if len(registered) < 2:
        raise InputMissing("there are too few passages")
    figures: dict[str, Any] = {
        "passages": len(registered),
        "minimum_match": plan.minimum,
        "minimum_match_tokens": plan.tokens,
        "vocabulary": plan.vocabulary,
        "method": METHOD,
    }
    with tempfile.TemporaryDirectory(prefix="lethegate-eval-") as directory:
        index = Index(Path(directory) / "index", word_view(), depth=plan.minimum)
        index.add(Document(text) for text in registered)
        threshold = calibrated(index.view, (), plan.minimum, None, 0.02)
        watched = Watched("passages", "forget", index.view, plan.minimum, threshold)
        judge = Judge((watched,), (), background())
        veto = _Veto(_VOCABULARIES[plan.vocabulary](), registered, plan.tokens)
        nets = [_phrase_nets(text) for text in registered]
        task = progress.add_task("edited copies", total=len(EDITS))
        for name, edit in EDITS.items():
            copies = [edit(t, random.Random(n)) for n, t in enumerate(registered)]  # noqa: S311
            figures |= _figures("words", name, (_streamed(_trace(judge), t) for t in copies))
            figures |= _figures("veto", name, (veto.outcome(t) for t in copies))
            for layer in ("phrases", "forms"):
                made = (found[layer] for found in nets)
                pairs = zip(made, copies, strict=True)
                figures |= _figures(layer, name, (_streamed(net(), t) for net, t in pairs))
            progress.advance(task)
        split = (veto.outcome(t, split=True) for t in registered)
        figures |= _figures("veto", "split", split)
        ended = [_streamed(_trace(judge), text).caught for text in others]
        figures |= share("false_positive", ended) | {"threshold_nats": round(threshold, 3)}
        sample = [word_view().words(text) for text in others[::2]]
        retained = calibrated(index.view, (), plan.minimum, None, 0.02, [sample])
        judge = Judge((replace(watched, threshold=retained),), (), background())
        for name, texts in (("false_positive", others[1::2]), ("caught", registered)):
            ended = [_streamed(_trace(judge), text).caught for text in texts]
            figures |= share(f"retained_{name}", ended)
        figures["retained_threshold_nats"] = round(retained, 3)
        index.close()
    return figures


def _passages(data: DataFolder) -> list[str]:
    """An author's answers, four by four, in the order of the files."""
    answers: dict[str, list[str]] = {}
    for question in [*data.tofu("retain90"), *data.tofu("forget10")]:
        answers.setdefault(question.owner, []).append(question.answer)
    return [
        " ".join(listed[at : at + _ANSWERS])
        for listed in answers.values()
        for at in range(0, len(listed) - _ANSWERS + 1, _ANSWERS)
    ]


class _Silent:
    def found(self, finding: Finding) -> None:
        pass

    def matched(self, seconds: float) -> None:
        pass


class _Veto:
    """Prov-Decode's table over some texts, asked along a given text."""

    def __init__(self, vocabulary: RealVocabulary, texts: Sequence[str], n: int) -> None:
        self._encode, self._n = vocabulary.encode, n
        runs = Tokenisations(lambda batch: [vocabulary.encode(t) for t in batch], n)
        sequences = [ids for text in texts for ids in runs.of(text)]
        self._table: SuccessorTable = compile_successors(sequences, n - 1, len(vocabulary.tokens))

    def outcome(self, text: str, *, split: bool = False) -> _Outcome:
        """Where the first token of a text is that would have been forbidden."""
        ids = np.array(self._split(text) if split else self._encode(text), np.int64)
        width = self._n - 1
        padded = np.concatenate([np.zeros(width, np.int64), ids])
        rows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, width))
        sizes = np.minimum(np.arange(len(rows)), width).astype(np.int64)
        vetoes = self._table.vetoes(rows, sizes)
        places = (at for at, token in enumerate(ids.tolist()) if token in vetoes[at])
        first = next(places, None)
        return _Outcome(first is not None, 1.0 if first is None else first / len(ids))

    def _split(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, word in enumerate(text.split()):
            spaced = f" {word}" if number else word
            parts = spaced if number % 5 == 4 else [spaced]
            ids += [token for part in parts for token in self._encode(part)]
        return ids


def _trace(judge: Judge) -> TraceShield:
    return TraceShield(judge, word_view(), _HOLDBACK, _Silent())


def _phrase_nets(text: str) -> dict[str, Callable[[], Net]]:
    """The nets of a target that has this document and nothing else."""
    found = extract(ForgetTarget("passage", documents=(Document(text),))).target
    phrases = [Phrase(phrase.text, phrase.whole_word) for phrase in found]
    forms = [form for phrase in found for form in _forms(phrase.text, phrase.reason)]
    plain = [PhraseMatcher(phrases)]
    more = [PhraseMatcher([*phrases, *forms])]
    return {
        "phrases": lambda: OutputShield(plain, _HOLDBACK),
        "forms": lambda: OutputShield(more, _HOLDBACK),
    }


def _forms(text: str, reason: Reason) -> Iterator[Phrase]:
    key = fold(text).strip()
    if reason in (Reason.NAME, Reason.TITLE):
        yield from (Phrase(name) for name in romanisations(key))
    elif reason is Reason.RARE_WORD:
        yield from (Phrase(word) for word in inflections(key))
    if reason in (Reason.NAME, Reason.RARE_WORD) and (stem := cut(key)) is not None:
        yield Phrase(stem, whole_word=False)


def _streamed(net: Net, text: str) -> _Outcome:
    """Run a text through a net in pieces, as a stream would."""
    shown = 0
    for at in range(0, len(text), _PIECE):
        released = net.feed(text[at : at + _PIECE])
        shown += len(released.text)
        if released.caught is not None:
            return _Outcome(True, shown / len(text))
    released = net.finish()
    shown += len(released.text)
    return _Outcome(released.caught is not None, shown / len(text))


def _figures(layer: str, edit: str, outcomes: Iterator[_Outcome]) -> dict[str, Any]:
    found = list(outcomes)
    key = f"{layer}_caught_{edit}"
    return {
        **share(key, (outcome.caught for outcome in found)),
        f"{layer}_shown_{edit}": round(median(outcome.shown for outcome in found), 4),
    }
