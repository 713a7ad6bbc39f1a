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
from detectors.normaliser import fold
from detectors.targets import Action, Enforcement, Phrase, Scope
from guard.decision import Decision, Verdict
from guard.errors import SnapshotCorrupt
from guard.follower import Active
from guard.key_scope import ALL_TARGETS, KeyScope
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.snapshot import Snapshot
from guard.vetoed import DOCUMENT, vetoes_always

MATCHERS_KEPT = 512
# More items than a named target has are searched for together: one search instead of many.
JOINED_FROM = 9
# By the keys' scopes, which an operator makes few of.
SCOPES_KEPT = 1024
WATCHES_KEPT = 64


@dataclass(frozen=True, slots=True)
class TargetRule:
    """What a target asks for.

    `unit` is its place among the snapshot's target units, `first_item` that of its first item among
    the item units. `labels` are None in snapshots that were made before they were kept there.
    """

    id: str
    action: Action
    enforcement: Enforcement
    scope: Scope
    unit: int
    first_item: int
    labels: frozenset[tuple[str, str]] | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Watches:
    """The names that answers are watched for, of enforced and of observed targets."""

    enforced: PhraseMatcher
    observed: PhraseMatcher


class Policy:
    """One loaded policy snapshot. Immutable; shared by all requests that are pinned to it.

    `watches` find the names of enforced and of observed targets in an answer: evidence that needs
    no detection in the prompt. They are for the text of answers only. A
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
        corpora = snapshot.document(DOCUMENT) if snapshot.has(DOCUMENT) else []
        self._vetoes_always = vetoes_always(corpora)
        tables = ClassifierTables.load(
            snapshot.arrays("classifier"), snapshot.document("classifier")
        )
        self.classifier = PromptClassifier(tables, device=device)
        phrases = snapshot.document("phrases")
        self._target_phrases: list[list[list[Any]]] = phrases["targets"]
        # Behind the items are their units for faint evidence.
        self._faint_from = len(phrases["items"])
        self._item_phrases: list[list[list[Any]]] = phrases["items"] + phrases["faint"]
        self._matcher = lru_cache(MATCHERS_KEPT)(self._build_matcher)
        self._joined = lru_cache(MATCHERS_KEPT)(self._build_joined)
        self._names: list[list[str]] = phrases["names"]
        self.covered = lru_cache(SCOPES_KEPT)(self._covered)
        self._watches_of = lru_cache(WATCHES_KEPT)(self._build_watches)
        self.watches(ALL_TARGETS)

    @property
    def target_ids(self) -> frozenset[str]:
        """All its targets."""
        return frozenset(self._rules)

    def _covered(self, scope: KeyScope) -> frozenset[str] | None:
        """The targets that apply to a key; None if all do."""
        if not scope.is_limited:
            return None
        rules = self._rules.values()
        return frozenset(rule.id for rule in rules if _covers(scope, rule))

    def applies_to(self, scope: KeyScope) -> bool:
        """Whether any target applies to a key, so that its texts must be judged."""
        covered = self.covered(scope)
        return bool(self._rules if covered is None else covered)

    def enforces_for(self, scope: KeyScope) -> bool:
        """Whether any target is enforced against a key, or a corpus vetoed in every answer."""
        if scope.enforcement is Enforcement.OBSERVE:
            return False
        covered = self.covered(scope)
        return self._vetoes_always or any(
            rule.enforcement is Enforcement.ENFORCE and (covered is None or rule.id in covered)
            for rule in self._rules.values()
        )

    def watches(self, scope: KeyScope) -> Watches:
        """What the answers to a key are watched for."""
        return self._watches_of(self.covered(scope))

    def classify(
        self, texts: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> list[Detection]:
        """All detections in one conversation, those of always-on targets among them.

        `embeddings` [windows, d] are of `detectors.windows.prompt_windows` of the texts.
        """
        judgement = self.classifier.begin(texts)
        self.classifier.compare([judgement], [embeddings])
        return self.detections(judgement)

    def detections(self, judgement: Judgement) -> list[Detection]:
        """All detections of a judgement by `classifier`, those of always-on targets among them."""
        always = [Detection(r.id, Layer.ALWAYS, Strength.STRONG, 1.0, 1.0) for r in self._always]
        return always + self.classifier.detections(judgement)

    def decide(self, detections: Iterable[Detection], scope: KeyScope = ALL_TARGETS) -> Decision:
        """One verdict for a request of a key with this scope.

        Refusal needs strong evidence; weak evidence steers away from the matched items only, faint
        evidence from what tells most of them. In
        observe mode, of a target or of the key, detections are recorded and change nothing;
        detections of targets that do not apply to the key are dropped. Where a corpus is vetoed in
        every answer, every request is steered, if by nothing else then without units.
        """
        decided = self._decide(detections, scope)
        if scope.enforcement is Enforcement.ENFORCE:
            return decided
        seen = (*decided.detections, *decided.observed)
        return Decision(
            Verdict.ALLOW,
            self.generation,
            self.digest,
            observed=seen,
            scope=scope,
            would=decided,
            refusing=decided.refusing,
        )

    def _decide(self, detections: Iterable[Detection], scope: KeyScope) -> Decision:
        covered = self.covered(scope)
        enforced: list[Detection] = []
        observed: list[Detection] = []
        for detection in detections:
            if covered is not None and detection.target_id not in covered:
                continue
            rule = self._rules[detection.target_id]
            (enforced if rule.enforcement is Enforcement.ENFORCE else observed).append(detection)
        strong = {d.target_id for d in enforced if d.strength is Strength.STRONG}
        refusing = self._refusing((*enforced, *observed))
        if not refusing.isdisjoint(strong):
            verdict = Verdict.REFUSE
        else:
            verdict = Verdict.STEER if enforced or self._vetoes_always else Verdict.ALLOW
        steers = verdict is Verdict.STEER
        return Decision(
            verdict,
            self.generation,
            self.digest,
            targets=tuple(sorted(self._rules[t].unit for t in strong)) if steers else (),
            items=self._items(enforced) if steers else (),
            detections=tuple(enforced),
            observed=tuple(observed),
            scope=scope,
            refusing=refusing,
        )

    def _refusing(self, detections: Iterable[Detection]) -> frozenset[str]:
        strong = {d.target_id for d in detections if d.strength is Strength.STRONG}
        return frozenset(t for t in strong if self._rules[t].action is Action.REFUSE)

    def matchers(self, decision: Decision) -> list[PhraseMatcher]:
        """The text matchers of the units that a decision switches on."""
        found = [self._matcher(True, unit) for unit in decision.targets]
        if len(decision.items) < JOINED_FROM:
            found += [self._matcher(False, unit) for unit in decision.items]
        else:
            found.append(self._joined(decision.items))
        return [matcher for matcher in found if matcher]

    def _items(self, detections: Iterable[Detection]) -> tuple[int, ...]:
        units: set[int] = set()
        for found in detections:
            first = self._rules[found.target_id].first_item
            faint = self._faint_from if found.strength is Strength.FAINT else 0
            units.update(faint + first + item for item in found.items)
        return tuple(sorted(units))

    def _build_watches(self, covered: frozenset[str] | None) -> Watches:
        rules = [r for r in self._rules.values() if covered is None or r.id in covered]
        enforced, observed = (
            _watch({r.id: self._names[r.unit] for r in rules if r.enforcement is enforcement})
            for enforcement in (Enforcement.ENFORCE, Enforcement.OBSERVE)
        )
        return Watches(enforced, observed)

    def _build_matcher(self, is_target: bool, unit: int) -> PhraseMatcher:
        phrases = (self._target_phrases if is_target else self._item_phrases)[unit]
        owner = (self._owner(unit, is_target=is_target),)
        spelled = (Phrase(text, whole_word) for text, whole_word in phrases)
        return PhraseMatcher(spelled, owners=lambda _: owner)

    def _owner(self, unit: int, *, is_target: bool) -> str:
        """The target that a unit belongs to."""
        if is_target:
            return next(rule.id for rule in self._rules.values() if rule.unit == unit)
        item = unit % self._faint_from
        before = [rule for rule in self._rules.values() if rule.first_item <= item]
        return max(before, key=lambda rule: (rule.first_item, rule.unit)).id

    def _build_joined(self, items: tuple[int, ...]) -> PhraseMatcher:
        spelled: list[Phrase] = []
        owners: dict[str, dict[str, None]] = {}
        for unit in items:
            owner = self._owner(unit, is_target=False)
            for text, whole_word in self._item_phrases[unit]:
                spelled.append(Phrase(text, whole_word))
                owners.setdefault(fold(text).strip(), {})[owner] = None
        return PhraseMatcher(spelled, owners=lambda phrase: tuple(owners.get(phrase, ())))


def _covers(scope: KeyScope, rule: TargetRule) -> bool:
    return scope.covers(rule.id, rule.labels, rule.tenant)


def _watch(names: Mapping[str, Iterable[str]]) -> PhraseMatcher:
    owners: dict[str, tuple[str, ...]] = {}
    for target, group in names.items():
        for name in group:
            folded = fold(name).strip()
            owners[folded] = (*owners.get(folded, ()), target)
    spelled = (Phrase(name) for group in names.values() for name in group)
    return PhraseMatcher(spelled, Catch.NAME, lambda name: owners.get(name, ()))


def _rules(documents: Sequence[Mapping[str, Any]]) -> list[TargetRule]:
    return [
        TargetRule(
            d["id"],
            Action(d["action"]),
            Enforcement(d["enforcement"]),
            Scope(d["scope"]),
            unit,
            d["first_item"],
            frozenset(d["labels"].items()) if "labels" in d else None,
            d.get("tenant"),
        )
        for unit, d in enumerate(documents)
    ]
