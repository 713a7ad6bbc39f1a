"""Compile forget targets into a policy snapshot: phrases, token automaton, classifier, veto."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from detectors.alias import is_distinctive, spellings
from detectors.benign import benign_prompts
from detectors.classifier import ClassifierTables, build_tables
from detectors.encoder import Encoder
from detectors.extraction import ExtractedPhrase, Extraction, Reason, extract, telling
from detectors.normaliser import NORMALISER_VERSION
from detectors.targets import Enforcement, ForgetTarget, Phrase
from guard import automaton
from guard.loading import WorkerPart
from guard.patterns import patterns_of
from guard.semantic import Expansion, expand, expansions_by_target, patterns_of_forms
from guard.semantic_meanings import Meanings
from guard.snapshot import write_snapshot
from guard.tokenisations import Tokenisations
from guard.uld.rules import Registered, rules_document, rules_of
from guard.units import Units
from guard.veto import CompiledVeto, compile_veto
from guard.vetoed import DOCUMENT, VetoedCorpus, corpora_document, limits_of, texts_of
from guard.vocabulary import Vocabulary

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A snapshot's digest, and per target id a report for its operator.

    A report holds `phrases` (text, reason, whole_word), `item_phrases` (the same per example),
    `names` (text, and whether it is watched for in every answer),
    `calibration`, for targets with documents `veto` (see `guard.veto.compile_veto`) and, with the
    semantic filter, `semantic` (delta, vetoed forms with reasons). It is forget text: only
    administrators may see it.
    """

    digest: str
    reports: Mapping[str, Mapping[str, Any]]


def compile_policy(
    targets: Sequence[ForgetTarget],
    *,
    encoder: Encoder,
    vocabulary: Vocabulary,
    snapshots: Path,
    alpha: float,
    progress: Progress,
    meanings: Meanings | None = None,
    tokenisations: Tokenisations | None = None,
    assistants: Mapping[str, Registered] | None = None,
    corpora: Sequence[VetoedCorpus] = (),
) -> CompiledPolicy:
    """Compile all targets of a policy and write its snapshot.

    Args:
        alpha: false-positive rate on benign prompts the detectors are calibrated for.
        progress: called with a stage and the fraction done in 0..1.
        meanings: of the vocabulary's words, for the semantic filter; None leaves it out.
        tokenisations: of the served model's tokenizer, for the veto; None leaves it out.
        assistants: the registered assistants by name.
        corpora: those whose documents are vetoed; they need `tokenisations`.

    Raises:
        CompileError: the targets cannot be compiled.
    """
    rules = rules_of(targets, assistants or {})
    progress("phrases", 0.0)
    extractions = [extract(target) for target in targets]
    progress("encode", 0.1)
    classifier = build_tables(targets, encoder, alpha=alpha, benign=benign_prompts())
    progress("meaning", 0.7)
    num_units = len(targets) + sum(len(target.examples) for target in targets)
    expansion = (
        Expansion.none(num_units)
        if meanings is None
        else expand(targets, extractions, meanings, encoder)
    )
    progress("automaton", 0.8)
    names = _watched_names(classifier)
    forbidden = [_with_names(*pair) for pair in zip(extractions, names, strict=True)]
    tables, units = _automaton(forbidden, expansion, vocabulary)
    progress("documents", 0.85)
    veto = _veto(targets, corpora, tokenisations, vocabulary, lambda shown: progress(shown, 0.85))
    arrays = WorkerPart(tables, units, veto.table).arrays()
    arrays |= {f"classifier.{name}": array for name, array in classifier.arrays().items()}
    progress("write", 0.9)
    digest = write_snapshot(
        snapshots,
        meta={
            "normaliser": NORMALISER_VERSION,
            "vocabulary": vocabulary.fingerprint,
            "encoder": encoder.id,
        },
        arrays=arrays,
        documents={
            "targets": _target_documents(targets),
            "phrases": _phrase_documents(forbidden) | {"names": names},
            "classifier": classifier.meta(),
            "uld": rules_document(rules),
            DOCUMENT: corpora_document(corpora, veto.reports),
        },
    )
    progress("done", 1.0)
    reports = _reports(targets, extractions, classifier)
    for target_id in reports.keys() & veto.reports.keys():
        reports[target_id]["veto"] = veto.reports[target_id]
    if meanings is not None:
        for target_id, report in expansions_by_target(expansion, targets).items():
            reports[target_id]["semantic"] = report
    return CompiledPolicy(digest, reports)


def _automaton(
    extractions: Sequence[Extraction], expansion: Expansion, vocabulary: Vocabulary
) -> tuple[automaton.Tables, Units]:
    """The automaton over all phrases, and the units that switch them on.

    Behind all items come, in the same order, the units for faint evidence of each.
    """
    items_of = [item for e in extractions for item in e.items]
    groups = [e.target for e in extractions] + items_of + [*map(telling, items_of)]
    expansion = expansion.with_units(len(items_of))
    forms = [form for of_unit in expansion.forms for form in of_unit]
    patterns = patterns_of([_phrase(p) for group in groups for p in group])
    distinct, ids = (patterns + patterns_of_forms(forms)).distinct()
    found, others = iter(ids[: len(patterns)].tolist()), iter(ids[len(patterns) :].tolist())
    numbers = [
        [*islice(found, len(group)), *islice(others, len(of_unit))]
        for group, of_unit in zip(groups, expansion.forms, strict=True)
    ]
    targets, items = numbers[: len(extractions)], numbers[len(extractions) :]
    units = Units.build(targets, items, expansion.penalties)
    return automaton.build_tables(distinct, vocabulary), units


def _veto(
    targets: Sequence[ForgetTarget],
    corpora: Sequence[VetoedCorpus],
    tokenisations: Tokenisations | None,
    vocabulary: Vocabulary,
    progress: Callable[[str], None],
) -> CompiledVeto:
    """The table over the documents of corpora and of enforced targets, and its reports."""
    if tokenisations is None:
        if corpora:
            raise ValueError("documents cannot be vetoed without a tokenizer")
        return compile_veto([], Tokenisations(lambda texts: [], 3), vocabulary)
    enforced = (t for t in targets if t.enforcement is Enforcement.ENFORCE)
    own = ((target.id, document.text) for target in enforced for document in target.documents)
    texts = chain(own, texts_of(corpora))
    return compile_veto(texts, tokenisations, vocabulary, progress, limits_of(corpora))


def _target_documents(targets: Sequence[ForgetTarget]) -> list[dict[str, Any]]:
    documents, first_item = [], 0
    for target in targets:
        documents.append(
            {
                "id": target.id,
                "action": target.action,
                "enforcement": target.enforcement,
                "scope": target.scope,
                "labels": dict(target.labels),
                "tenant": target.tenant,
                "first_item": first_item,
            }
        )
        first_item += len(target.examples)
    return documents


def _phrase_documents(extractions: Sequence[Extraction]) -> dict[str, Any]:
    def plain(group: Sequence[ExtractedPhrase]) -> list[list[Any]]:
        return [[p.text, p.whole_word] for p in group]

    return {
        "targets": [plain(e.target) for e in extractions],
        "items": [plain(item) for e in extractions for item in e.items],
        "faint": [plain(telling(item)) for e in extractions for item in e.items],
    }


def _watched_names(tables: ClassifierTables) -> list[list[str]]:
    """Per target the names that are looked for in every answer, in all their spellings."""
    names: list[list[str]] = [[] for _ in tables.target_ids]
    for alias, target in tables.aliases:
        names[target] += filter(is_distinctive, spellings(alias))
    return [[*dict.fromkeys(of_target)] for of_target in names]


def _with_names(extraction: Extraction, names: Sequence[str]) -> Extraction:
    """The phrases to forbid: with an item on weak evidence, its target's names as well.

    So the model says something else, where the watch could only end the answer.
    """
    added = tuple(ExtractedPhrase(name, True, Reason.ALIAS) for name in names)
    return Extraction(extraction.target, tuple((*item, *added) for item in extraction.items))


def _reports(
    targets: Sequence[ForgetTarget], extractions: Sequence[Extraction], tables: ClassifierTables
) -> dict[str, dict[str, Any]]:
    return {
        target.id: {
            "phrases": [_described(p) for p in extraction.target],
            "item_phrases": [[_described(p) for p in item] for item in extraction.items],
            "names": [
                {"text": alias, "watched": is_distinctive(alias)}
                for alias, owner in tables.aliases
                if owner == number
            ],
            "calibration": dict(tables.reports[target.id]),
        }
        for number, (target, extraction) in enumerate(zip(targets, extractions, strict=True))
    }


def _described(phrase: ExtractedPhrase) -> dict[str, Any]:
    return {"text": phrase.text, "whole_word": phrase.whole_word, "reason": str(phrase.reason)}


def _phrase(phrase: ExtractedPhrase) -> Phrase:
    return Phrase(phrase.text, phrase.whole_word)
