"""A policy as the gateway holds it: detections in, one decision out, phrases for the shield."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.classifier import ClassifierTables, Judgement, PromptClassifier
from detectors.detection import Detection, Layer, Strength
from detectors.targets import Action, Enforcement, Phrase, Scope
from guard.decision import Decision, Verdict
from guard.errors import SnapshotCorrupt
from guard.follower import Active
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.snapshot import Snapshot

MATCHERS_KEPT = 512


@dataclass(frozen=True, slots=True)
class TargetRule:
    """What a target asks for.

    `unit` is its place among the snapshot's target units, `first_item` that of its first item among
    the item units.
    """

    id: str
    action: Action
    enforcement: Enforcement
    scope: Scope
    unit: int
    first_item: int


class Policy:
    """One loaded policy snapshot. Immutable; shared by all requests that are pinned to it.

    `watch` finds the names of enforced targets in an answer, `observed_watch` those of observed
    ones: evidence that needs no detection in the prompt. They are for the text of answers only. A
    watched request reaches the engine as it came, so its tokens are the engine's own up to the end
    of the name that is found; forbidding the names while sampling would change probabilities
    wherever one is begun.
    """

    def __init__(
        self, active: Active, snapshot: Snapshot, encoder_id: str, *, device: str = "cpu"
    ) -> None:
        """Read a snapshot; `device` is where conversations are compared with registered rows.

        Raises:
            SnapshotCorrupt: it was compiled with another encoder.
        """
        if snapshot.meta["encoder"] != encoder_id:
            raise SnapshotCorrupt(f"snapshot {active.digest[:12]} was made with another encoder")
        self.generation = active.generation
        self.digest = active.digest
        rules = _rules(snapshot.document("targets"))
        self._rules = {rule.id: rule for rule in rules}
        self._always = tuple(rule for rule in rules if rule.scope is Scope.ALWAYS)
        self.enforces = any(rule.enforcement is Enforcement.ENFORCE for rule in rules)
        tables = ClassifierTables.load(
            snapshot.arrays("classifier"), snapshot.document("classifier")
        )
        self.classifier = PromptClassifier(tables, device=device)
        phrases = snapshot.document("phrases")
        self._target_phrases: list[list[list[Any]]] = phrases["targets"]
        self._item_phrases: list[list[list[Any]]] = phrases["items"]
        self._matcher = lru_cache(MATCHERS_KEPT)(self._build_matcher)
        names: list[list[str]] = phrases["names"]
        self.watch, self.observed_watch = (
            _watch(names[rule.unit] for rule in rules if rule.enforcement is enforcement)
            for enforcement in (Enforcement.ENFORCE, Enforcement.OBSERVE)
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to detect, so that texts need not even be encoded."""
        return not self._rules

    def classify(
        self, texts: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> list[Detection]:
        """All detections in one conversation: `PromptClassifier.classify` and always-on targets."""
        judgement = self.classifier.begin(texts)
        self.classifier.compare([judgement], [embeddings])
        return self.detections(judgement)

    def detections(self, judgement: Judgement) -> list[Detection]:
        """All detections of a judgement by `classifier`, those of always-on targets among them."""
        always = [Detection(r.id, Layer.ALWAYS, Strength.STRONG, 1.0, 1.0) for r in self._always]
        return always + self.classifier.detections(judgement)

    def decide(self, detections: Iterable[Detection]) -> Decision:
        """One verdict for a request.

        Refusal needs strong evidence; weak evidence steers away from the matched items only. In
        observe mode a target's detections are recorded and change nothing.
        """
        enforced: list[Detection] = []
        observed: list[Detection] = []
        for detection in detections:
            rule = self._rules[detection.target_id]
            (enforced if rule.enforcement is Enforcement.ENFORCE else observed).append(detection)
        strong = {d.target_id for d in enforced if d.strength is Strength.STRONG}
        if any(self._rules[target].action is Action.REFUSE for target in strong):
            verdict = Verdict.REFUSE
        else:
            verdict = Verdict.STEER if enforced else Verdict.ALLOW
        steers = verdict is Verdict.STEER
        return Decision(
            verdict,
            self.generation,
            self.digest,
            targets=tuple(sorted(self._rules[t].unit for t in strong)) if steers else (),
            items=self._items(enforced) if steers else (),
            detections=tuple(enforced),
            observed=tuple(observed),
        )

    def matchers(self, decision: Decision) -> list[PhraseMatcher]:
        """The text matchers of the units that a decision switches on."""
        units = [(True, unit) for unit in decision.targets]
        units += [(False, unit) for unit in decision.items]
        return [matcher for unit in units if (matcher := self._matcher(*unit))]

    def _items(self, detections: Iterable[Detection]) -> tuple[int, ...]:
        rules = self._rules
        return tuple(
            sorted({rules[d.target_id].first_item + item for d in detections for item in d.items})
        )

    def _build_matcher(self, is_target: bool, unit: int) -> PhraseMatcher:
        phrases = (self._target_phrases if is_target else self._item_phrases)[unit]
        return PhraseMatcher(Phrase(text, whole_word) for text, whole_word in phrases)


def _watch(names: Iterable[Iterable[str]]) -> PhraseMatcher:
    return PhraseMatcher((Phrase(name) for group in names for name in group), Catch.NAME)


def _rules(documents: Sequence[Mapping[str, Any]]) -> list[TargetRule]:
    return [
        TargetRule(
            d["id"],
            Action(d["action"]),
            Enforcement(d["enforcement"]),
            Scope(d["scope"]),
            unit,
            d["first_item"],
        )
        for unit, d in enumerate(documents)
    ]
