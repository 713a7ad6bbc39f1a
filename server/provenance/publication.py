"""Bringing the corpora into force: the list is written, the pointer moved, gateways acknowledge."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guard.errors import CorporaUnusable
from server.errors import CorpusNotAcknowledged, CorpusRejected
from server.log import fault_fields, get_logger
from server.policy import Publisher
from server.provenance.boilerplate import ID as BOILERPLATE
from server.provenance.boilerplate import boilerplate_entry, boilerplate_view
from server.provenance.groups import TargetGroup
from server.provenance.library import Library
from server.provenance.registry import (
    CorpusEntry,
    Places,
    prune_registries,
    read_registry,
    write_registry,
)
from server.provenance.schemas import Label
from server.provenance.store import CorpusRecord, CorpusStore
from server.provenance.thresholds import calibrated, retained_words
from server.tables import CorpusStatus
from tracing.errors import TracingError
from tracing.index import View

POLL_SECONDS = 0.02
# The rate that the documents of targets are calibrated for.
TARGET_RATE = 0.02

# Directories and states of indexes.
States = Sequence[tuple[str, View]]

log = get_logger("corpora")


@dataclass(frozen=True, slots=True)
class Benign:
    """What may be given away, and texts like answers that must pass."""

    allowed: States
    retained: States


class Publication:
    """What is published of the corpora, and who has taken it up."""

    def __init__(
        self,
        places: Places,
        store: CorpusStore,
        library: Library,
        publisher: Publisher,
        *,
        acknowledge_timeout_seconds: float,
        stopped: threading.Event,
    ) -> None:
        self._places, self._store, self._library = places, store, library
        self._publisher, self._stopped = publisher, stopped
        self._timeout_seconds = acknowledge_timeout_seconds
        self._lock = threading.Lock()
        # By the index's state, the allowed ones' and the limits: calibrated once for each.
        self._thresholds: dict[tuple[object, ...], float] = {}

    def generation(self) -> int:
        """The generation in force; 0 before the first."""
        active = self._publisher.read()
        return 0 if active is None else active.generation

    def entries(self) -> tuple[CorpusEntry, ...]:
        """What is published now.

        Raises:
            CorporaUnusable: the list cannot be read.
        """
        active = self._publisher.read()
        return () if active is None else read_registry(self._places, active.digest)

    def publish(self) -> int:
        """Publish the corpora as they are; gives the generation, which is the old one if nothing
        changed."""
        with self._lock:
            published = self._published()
            entries = self._entries(published)
            active = self._publisher.read()
            digest = write_registry(self._places, entries)
            if active is not None and active.digest == digest:
                return active.generation
            generation = 1 if active is None else active.generation + 1
            self._publisher.publish(generation, digest)
            prune_registries(self._places, digest)
            log.info("corpora_published", generation=generation, corpora=len(entries))
            return generation

    def wait(self, generation: int) -> None:
        """Wait until every live gateway applies a generation.

        Raises:
            CorpusRejected: one could not load it.
            CorpusNotAcknowledged: one did not answer in time, or this process is ending.
        """
        started = time.monotonic()
        while True:
            followers = self._publisher.followers()
            if any((f.failed_generation or 0) >= generation for f in followers):
                raise CorpusRejected("a gateway could not load the corpora")
            behind = [f for f in followers if (f.generation or 0) < generation]
            if not behind:
                return
            if time.monotonic() - started > self._timeout_seconds:
                raise CorpusNotAcknowledged(f"{len(behind)} gateways did not answer")
            if self._stopped.wait(POLL_SECONDS):
                raise CorpusNotAcknowledged("the control process is ending")

    def _published(self) -> Mapping[str, CorpusEntry]:
        try:
            return {entry.id: entry for entry in self.entries()}
        except CorporaUnusable as error:
            log.error("corpora_unreadable", **fault_fields(error))
            return {}

    def _entries(self, published: Mapping[str, CorpusEntry]) -> list[CorpusEntry]:
        records = [r for r in self._store.all() if r.status is not CorpusStatus.WITHDRAWN]
        views = {record.id: self._view(record) for record in records}
        allowed, retained = (
            [
                (record.directory, view)
                for record in records
                if record.settings.label is label and (view := views[record.id]) is not None
            ]
            for label in (Label.ALLOWED, Label.RETAIN)
        )
        common = boilerplate_view(self._library)
        benign = Benign([*allowed, (BOILERPLATE, common)], retained)
        found = [boilerplate_entry(common)]
        for record in records:
            view = views[record.id]
            if record.settings.label is Label.RETAIN:
                continue
            if view is not None:
                found.append(self._entry(record, view, benign))
            elif record.id in published:
                # Gateways that have it open go on with it; new ones do not start without it.
                found.append(published[record.id])
        return found + self._target_entries(benign, published)

    def _view(self, record: CorpusRecord) -> View | None:
        try:
            index = self._library.index(record.directory, record.settings.minimum_match)
        except (TracingError, OSError) as error:
            log.error("corpus_damaged", corpus=record.id, **fault_fields(error))
            self._store.set_status(record.id, CorpusStatus.DAMAGED)
            return None
        if record.status is CorpusStatus.DAMAGED:
            self._store.set_status(record.id, CorpusStatus.ACTIVE)
        return index.view

    def _entry(self, record: CorpusRecord, view: View, benign: Benign) -> CorpusEntry:
        asked = record.settings
        return CorpusEntry(
            id=record.id,
            directory=record.directory,
            index_generation=view.generation,
            label=asked.label,
            scope=asked.scope,
            enforcement=asked.enforcement,
            targets=tuple(sorted(asked.targets)),
            minimum=asked.minimum_match,
            max_frequency=asked.max_frequency,
            threshold=self._threshold(
                record.directory,
                view,
                benign,
                asked.minimum_match,
                asked.max_frequency,
                asked.false_positive_rate,
            )
            if asked.label.refuses
            else 0.0,
        )

    def _target_entries(
        self, benign: Benign, published: Mapping[str, CorpusEntry]
    ) -> list[CorpusEntry]:
        """The documents of targets, in indexes of their own."""
        found = []
        for group in TargetGroup.on_disk(self._places):
            name = group.directory
            try:
                view = self._library.index(name, group.minimum, keep_text=False).view
            except (TracingError, OSError) as error:
                log.error("target_documents_damaged", **fault_fields(error))
                found += [published[name]] if name in published else []
                continue
            if view.live_ids():
                limits = (group.minimum, None, TARGET_RATE)
                threshold = self._threshold(name, view, benign, *limits)
                found.append(self._target_entry(group, view, threshold))
        return found

    def _target_entry(self, group: TargetGroup, view: View, threshold: float) -> CorpusEntry:
        return CorpusEntry(
            id=group.directory,
            directory=group.directory,
            index_generation=view.generation,
            label=Label.FORGET,
            scope=group.scope,
            enforcement=group.enforcement,
            targets=(),
            minimum=group.minimum,
            max_frequency=None,
            threshold=threshold,
        )

    def _threshold(
        self,
        directory: str,
        view: View,
        benign: Benign,
        minimum: int,
        max_frequency: int | None,
        rate: float,
    ) -> float:
        others = (*benign.allowed, *benign.retained)
        states = tuple((name, state.generation) for name, state in others)
        key = (directory, view.generation, states, minimum, max_frequency, rate)
        if key not in self._thresholds:
            self._thresholds = {k: v for k, v in self._thresholds.items() if k[0] != directory}
            self._thresholds[key] = calibrated(
                view,
                [state for _, state in benign.allowed],
                minimum,
                max_frequency,
                rate,
                [retained_words(name, state) for name, state in benign.retained],
            )
        return self._thresholds[key]
