"""Compile forget targets into a policy snapshot: phrases, token automaton, classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.benign import benign_prompts
from detectors.classifier import ClassifierTables, build_tables
from detectors.encoder import Encoder
from detectors.extraction import ExtractedPhrase, Extraction, extract
from detectors.normaliser import NORMALISER_VERSION
from detectors.targets import ForgetTarget, Phrase
from guard import automaton
from guard.snapshot import write_snapshot
from guard.units import Units
from guard.vocabulary import Vocabulary

COMPILER_VERSION = 2

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A snapshot's digest, and per target id a report for its operator.

    A report holds `phrases` (text, reason, whole_word), `item_phrases` (the same per example) and
    `calibration`. It is forget text: only administrators may see it.
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
) -> CompiledPolicy:
    """Compile all targets of a policy and write its snapshot.

    Args:
        alpha: false-positive rate on benign prompts the detectors are calibrated for.
        progress: called with a stage and the fraction done in 0..1.

    Raises:
        CompileError: the targets cannot be compiled.
    """
    progress("phrases", 0.0)
    extractions = [extract(target) for target in targets]
    progress("encode", 0.1)
    classifier = build_tables(targets, encoder, alpha=alpha, benign=benign_prompts())
    progress("automaton", 0.8)
    arrays = _automaton_arrays(extractions, vocabulary)
    arrays |= {f"classifier.{name}": array for name, array in classifier.arrays().items()}
    progress("write", 0.9)
    digest = write_snapshot(
        snapshots,
        meta={
            "compiler": COMPILER_VERSION,
            "normaliser": NORMALISER_VERSION,
            "vocabulary": vocabulary.fingerprint,
            "encoder": encoder.id,
        },
        arrays=arrays,
        documents={
            "targets": _target_documents(targets),
            "phrases": _phrase_documents(extractions),
            "classifier": classifier.meta(),
        },
    )
    progress("done", 1.0)
    return CompiledPolicy(digest, _reports(targets, extractions, classifier))


def _automaton_arrays(extractions: Sequence[Extraction], vocabulary: Vocabulary) -> dict[str, Any]:
    """Arrays of the automaton over all phrases, and of the units that switch them on."""
    groups = [e.target for e in extractions] + [item for e in extractions for item in e.items]
    patterns, ids = automaton.index_phrases(_phrase(p) for group in groups for p in group)
    found = iter(ids)
    members = [[next(found) for _ in group] for group in groups]
    units = Units.build(members[: len(extractions)], members[len(extractions) :])
    tables = automaton.build_tables(patterns, vocabulary)
    return {f"automaton.{name}": array for name, array in tables.arrays().items()} | {
        f"units.{name}": array for name, array in units.arrays().items()
    }


def _target_documents(targets: Sequence[ForgetTarget]) -> list[dict[str, Any]]:
    documents, first_item = [], 0
    for target in targets:
        documents.append(
            {
                "id": target.id,
                "action": target.action,
                "enforcement": target.enforcement,
                "scope": target.scope,
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
    }


def _reports(
    targets: Sequence[ForgetTarget], extractions: Sequence[Extraction], tables: ClassifierTables
) -> dict[str, dict[str, Any]]:
    return {
        target.id: {
            "phrases": [_described(p) for p in extraction.target],
            "item_phrases": [[_described(p) for p in item] for item in extraction.items],
            "calibration": dict(tables.reports[target.id]),
        }
        for target, extraction in zip(targets, extractions, strict=True)
    }


def _described(phrase: ExtractedPhrase) -> dict[str, Any]:
    return {"text": phrase.text, "whole_word": phrase.whole_word, "reason": str(phrase.reason)}


def _phrase(phrase: ExtractedPhrase) -> Phrase:
    return Phrase(phrase.text, phrase.whole_word)
