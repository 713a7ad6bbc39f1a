"""The corpora as a gateway applies them: followed on a thread, held as one immutable state.

Opening and verifying an index happens in the follower's thread; requests take the state that there
is. What cannot be loaded is not acknowledged, and the state before it goes on ruling. A gateway
that could load none although there are corpora is not ready and serves nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from detectors.targets import Enforcement, Scope
from guard.background import background, word_view
from guard.decision import Decision
from guard.errors import CorporaUnusable
from guard.follower import Active, ActivePointer, Follower
from guard.nets import AnswerNets, Catch, CutWitness, MakeNet
from guard.trace_shield import TraceShield
from server.log import fault_fields, get_logger
from server.metrics.gateway import GatewayMetrics
from server.provenance.audit import AuditLog, recorded_id
from server.provenance.groups import TARGET
from server.provenance.registry import CorpusEntry, Places, read_registry
from server.provenance.schemas import Label
from tracing.errors import TracingError, UnknownDocument
from tracing.index import Index, View
from tracing.judge import Finding, Judge, Watched
from tracing.matching import Occurrence

log = get_logger("corpora")

_JUDGES_KEPT = 256


@dataclass(frozen=True, slots=True)
class CorporaState:
    """What is in force: every refusing corpus with its index, and what is allowed."""

    generation: int = 0
    watched: tuple[tuple[CorpusEntry, Watched], ...] = ()
    allowed: tuple[View, ...] = ()
    # The target of each document, by the corpora that targets' documents are kept in.
    owners: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    _judges: dict[tuple[object, ...], Judge | None] = field(default_factory=dict)

    def judge(
        self,
        enforcement: Enforcement,
        decision: Decision,
        covered: frozenset[str] | None = None,
    ) -> Judge | None:
        """What the answer to a request is held against; None if nothing applies to it.

        A matched corpus judges answers that are steered for a target, and where it names targets
        for one of them; an always-on corpus judges every answer. Of targets' documents only those
        of the `covered` targets count, where not all are.
        """
        detections = (*decision.detections, *decision.observed)
        targets = frozenset(detection.target_id for detection in detections)
        steered = decision.steers_for_targets
        found = tuple(
            entry.id
            for entry, watched in self.watched
            if entry.enforcement is enforcement
            and (
                entry.scope is Scope.ALWAYS
                or (steered and (not entry.targets or targets.intersection(entry.targets)))
            )
        )
        key = (enforcement, covered, *found)
        if key not in self._judges:
            if len(self._judges) >= _JUDGES_KEPT:
                self._judges.clear()
            self._judges[key] = self._make(found, covered)
        return self._judges[key]

    def _make(self, ids: Sequence[str], covered: frozenset[str] | None) -> Judge | None:
        found = tuple(self._watched(w, covered) for _, w in self.watched if w.id in ids)
        return Judge(found, self.allowed, background()) if found else None

    def _watched(self, watched: Watched, covered: frozenset[str] | None) -> Watched:
        owners = self.owners.get(watched.id)
        if covered is None or owners is None:
            return watched
        others = {document for document, owner in owners.items() if owner not in covered}
        view = watched.view
        segments = tuple(s.without(s.withdrawn | others) for s in view.segments)
        return replace(watched, view=replace(view, segments=segments))


def _unseen(_caught: Catch, _targets: Sequence[str]) -> None:
    pass


class CorporaFollower:
    """Follows what the control process publishes."""

    def __init__(self, directory: Path, metrics: GatewayMetrics, holdback_chars: int) -> None:
        self._places = Places(directory)
        self._metrics, self._limit = metrics, holdback_chars
        self._audit = AuditLog(self._places.audit)
        self._indexes: dict[str, Index] = {}
        self._follower: Follower | None = None
        # Without any list there never was a corpus.
        none_yet = ActivePointer(directory).read() is None
        self.state: CorporaState | None = CorporaState() if none_yet else None

    def start(self) -> None:
        """Take up what is in force, then follow in the background; takes seconds."""
        background()
        self._follower = Follower(self._places.root, "gateway", self._load)
        self._follower.start()

    def stop(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.stop()

    def nets(
        self,
        decision: Decision,
        request_id: str,
        covered: frozenset[str] | None = None,
        cuts: tuple[CutWitness, CutWitness] = (_unseen, _unseen),
    ) -> AnswerNets:
        """The nets of TraceShield for one answer; `covered` as for `CorporaState.judge`.

        `cuts` are told of which targets the documents are that end the answer, or would.

        Raises:
            CorporaUnusable: there are corpora, and none could be loaded.
        """
        state = self.state
        if state is None:
            raise CorporaUnusable("no corpora could be loaded")
        if not state.watched:
            return AnswerNets()
        make = partial(self._nets, state, decision, request_id, covered)
        enforced, observed = cuts
        return AnswerNets(make(Enforcement.ENFORCE, enforced), make(Enforcement.OBSERVE, observed))

    def _nets(
        self,
        state: CorporaState,
        decision: Decision,
        request_id: str,
        covered: frozenset[str] | None,
        enforcement: Enforcement,
        cuts: CutWitness,
    ) -> tuple[MakeNet, ...]:
        judge = state.judge(enforcement, decision.would or decision, covered)
        if judge is None:
            return ()
        enforced = enforcement is Enforcement.ENFORCE and decision.would is None
        witness = _Witness(self._audit, self._metrics, state.generation, request_id, enforced, cuts)
        return (lambda: TraceShield(judge, word_view(), self._limit, witness),)

    def _load(self, active: Active) -> None:
        try:
            state = self._open(active)
        except (CorporaUnusable, TracingError, OSError) as error:
            self._metrics.record_corpora_failure()
            log.error("corpora_not_loaded", **fault_fields(error))
            raise CorporaUnusable("an index of the corpora cannot be read") from None
        self.state = state
        self._metrics.set_corpora(active.generation)

    def _open(self, active: Active) -> CorporaState:
        entries = read_registry(self._places, active.digest)
        views = {entry.id: self._view(entry) for entry in entries}
        for directory in self._indexes.keys() - {entry.directory for entry in entries}:
            self._indexes.pop(directory).close()
        return CorporaState(
            active.generation,
            tuple(
                (entry, _watched(entry, views)) for entry in entries if entry.label != Label.ALLOWED
            ),
            tuple(views[entry.id] for entry in entries if entry.label == Label.ALLOWED),
            {entry.id: _owners(views[entry.id]) for entry in entries if entry.id.startswith("@")},
        )

    def _view(self, entry: CorpusEntry) -> View:
        """An index's state, new segments read and compared with their checksums."""
        index = self._indexes.get(entry.directory)
        if index is None:
            path = self._places.index(entry.directory)
            index = self._indexes[entry.directory] = Index(path, word_view(), read_only=True)
        elif index.view.generation < entry.index_generation:
            index.refresh()
        if index.view.generation < entry.index_generation:
            raise CorporaUnusable("an index is older than the list of corpora says")
        return index.view


@dataclass(slots=True)
class _Witness:
    """Records what the shields of one answer find: ids and numbers only."""

    audit: AuditLog
    metrics: GatewayMetrics
    generation: int
    request_id: str
    enforced: bool
    cuts: CutWitness
    _seen: set[tuple[object, ...]] = field(default_factory=set)

    def matched(self, seconds: float) -> None:
        """Measure."""
        self.metrics.observe_match(seconds)

    def found(self, finding: Finding) -> None:
        """Count a passage and write it down; the surfaces of an answer may hold it twice."""
        key = (finding.corpus.id, finding.start, finding.end, finding.sources)
        if key in self._seen:
            return
        self._seen.add(key)
        owners = (_owner(finding, at).get("target") for at in finding.sources)
        self.cuts(Catch.PROVENANCE, [target for target in owners if target is not None])
        self.metrics.record_passage(finding.corpus.label, enforced=self.enforced)
        try:
            self.audit.append(self._record(finding))
        except OSError as error:
            # The answer is ended all the same.
            log.error("block_not_recorded", **fault_fields(error))

    def _record(self, finding: Finding) -> dict[str, object]:
        now = datetime.now(UTC)
        return {
            "id": f"{int(now.timestamp() * 1000):x}-{secrets.token_hex(4)}",
            "at": now.isoformat(timespec="milliseconds"),
            "request_id": recorded_id(self.request_id),
            "generation": self.generation,
            "corpus": finding.corpus.id,
            "label": finding.corpus.label,
            "enforced": self.enforced,
            "start_word": finding.start,
            "words": finding.end - finding.start,
            "nats_per_word": round(finding.nats, 3),
            "raw_bci": round(finding.raw, 3),
            "count": finding.count,
            "documents": [
                {"document": at.document_id, "first_word": at.first, **_owner(finding, at)}
                for at in finding.sources
            ],
        }


def _owner(finding: Finding, at: Occurrence) -> Mapping[str, str]:
    """The target that a document belongs to, where it is not a corpus's."""
    if not finding.corpus.id.startswith("@"):
        return {}
    try:
        metadata = finding.corpus.view.document(at.document_id).metadata
    except UnknownDocument:
        return {}
    return {"target": metadata[TARGET]} if TARGET in metadata else {}


def _owners(view: View) -> dict[int, str]:
    """The target of each document, where there is one."""
    found = {i: view.document(i).metadata.get(TARGET, "") for i in view.live_ids()}
    return {number: target for number, target in found.items() if target}


def _watched(entry: CorpusEntry, views: Mapping[str, View]) -> Watched:
    return Watched(
        id=entry.id,
        label=entry.label.value,
        view=views[entry.id],
        minimum=entry.minimum,
        threshold=entry.threshold,
        max_frequency=entry.max_frequency,
    )
