"""The corpora's worker: one thread that changes indexes, publishes them and merges segments.

Jobs run one after the other, in order. Each is written so that one cut short at any moment (kill
-9) is done again from the beginning without being done twice: what an index holds is asked of the
index. While nothing waits, segments are merged, which neither the API nor gateways wait for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from detectors.targets import ForgetTarget
from guard.errors import GuardError
from guard.vetoed import VetoedCorpus
from server.errors import CorpusDamaged, CorpusFault, NotFound
from server.job_thread import JobThread
from server.log import fault_fields, get_logger
from server.metrics.control import ControlMetrics
from server.provenance.adoption import adopt, adopted, inspect
from server.provenance.freeze import changing
from server.provenance.groups import as_policy_fault, sync_documents
from server.provenance.library import Library
from server.provenance.publication import Publication
from server.provenance.registry import Places
from server.provenance.store import CorpusJob, CorpusRecord, CorpusStore, DocumentRecord
from server.provenance.uploads import UploadedDocument, read_upload
from server.provenance.veto import CorpusVeto
from server.staging import discard_left
from server.tables import CorpusStatus, JobKind, JobState
from tracing.document import Document
from tracing.errors import IndexProblem, TracingError
from tracing.index import Index

IDLE_SECONDS = 30.0
_PROGRESS_SECONDS = 0.25

log = get_logger("corpora")


class CorpusWorker(JobThread):
    """Works through the jobs about corpora, in a thread of its own.

    `ready` is True once the indexes that there are have been opened.
    """

    def __init__(
        self,
        places: Places,
        store: CorpusStore,
        library: Library,
        publication: Publication,
        veto: CorpusVeto,
        *,
        metrics: ControlMetrics,
        state_dir: Path,
        index_dir: Path | None,
        stopped: threading.Event,
    ) -> None:
        """`state_dir` is where backups have their folders; see `server.staging`. `index_dir` has
        the indexes that corpora may take over."""
        super().__init__("corpora", metrics, stopped)
        self._places, self._store, self._library = places, store, library
        self._publication, self._veto = publication, veto
        self._state_dir, self._index_dir = state_dir, index_dir
        self.ready = False
        self._born = time.time()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End the thread soon; a job that is running is left behind and resumed later."""
        super().stop(timeout_seconds)
        self._library.close()

    def sync_targets(self, targets: Iterable[ForgetTarget]) -> None:
        """Bring exactly these targets' documents into force; for the policy's job.

        Raises:
            PolicyFault: they are not in force everywhere.
        """
        try:
            with changing(self._places.root):
                changed = sync_documents(self._library, self._places, targets)
            if changed:
                self._publication.wait(self._publication.publish())
        except CorpusFault as fault:
            raise as_policy_fault(fault) from None

    def vetoed(self) -> Sequence[VetoedCorpus]:
        """The corpora that a policy is to veto; for the policy's job.

        Raises:
            PolicyNotCompiled: one of them cannot be read.
        """
        return self._veto.wanted()

    def _begin(self) -> None:
        self._store.recover()
        discard_left(self._state_dir)
        waiting = self._store.uploads_waiting()
        for path in self._places.uploads.glob("*") if self._places.uploads.is_dir() else ():
            # Younger ones are on their way in.
            if path.name not in waiting and path.stat().st_mtime < self._born:
                path.unlink(missing_ok=True)
        with changing(self._places.root):
            self._library.drop_all_but({record.directory for record in self._store.all()})
        self._publish_quietly()
        self.ready = True

    def _turn(self) -> None:
        self._wake.clear()
        job = self._store.take()
        if job is not None:
            # A backup waits, so that what it has of the store fits what it has of the indexes.
            with changing(self._places.root):
                self._process(job)
        elif self._maintain():
            self._publish_quietly()
        else:
            discard_left(self._state_dir)
            self._measure()
            self._wake.wait(IDLE_SECONDS)

    def _maintain(self) -> bool:
        with changing(self._places.root):
            return self._library.maintain()

    def _publish_quietly(self) -> None:
        """Publish what is there; nobody waits for it."""
        self._metrics.set_corpora_generation(self._publication.publish())
        self._measure()

    def _process(self, job: CorpusJob) -> None:
        """Do a job and tell how it ended; a fault of store or disk leaves it to be resumed."""
        try:
            message = self._work(job)
        except NotFound:
            # Its corpus was deleted before it, or by it before this process was killed.
            message = ""
        except CorpusFault as fault:
            if self._stop.is_set():
                return
            self._fail(job, fault)
            return
        except (TracingError, GuardError) as error:
            log.error("corpus_unusable", corpus=job.corpus_id, **fault_fields(error))
            if isinstance(error, IndexProblem):
                self._library.forget(self._store.corpus(job.corpus_id).directory)
                self._store.set_status(job.corpus_id, CorpusStatus.DAMAGED)
            self._fail(job, CorpusDamaged("the index of the corpus cannot be used"))
            return
        self._store.finish(job, message, self._publication.generation())
        self._metrics.record_jobs(JobState.DONE, 1)
        self._discard_upload(job)

    def _fail(self, job: CorpusJob, fault: CorpusFault) -> None:
        log.warning("corpus_job_failed", error=type(fault).__name__, kind=job.job.kind)
        self._store.fail(job, fault)
        self._metrics.record_jobs(JobState.FAILED, 1)
        self._discard_upload(job)

    def _discard_upload(self, job: CorpusJob) -> None:
        if "upload" in job.payload:
            (self._places.uploads / job.payload["upload"]).unlink(missing_ok=True)

    def _work(self, job: CorpusJob) -> str:
        """Do a job; gives what is told of it."""
        record = self._store.corpus(job.corpus_id)
        works = {
            JobKind.CORPUS_CREATE: self._create,
            JobKind.CORPUS_CHANGE: self._change,
            JobKind.CORPUS_ADD: self._add,
            JobKind.CORPUS_ADOPT: self._adopt,
            JobKind.CORPUS_WITHDRAW: self._withdraw,
            JobKind.CORPUS_DELETE: self._delete,
            JobKind.CORPUS_VERIFY: self._verify,
        }
        return works[job.job.kind](job, record)

    def _create(self, _job: CorpusJob, record: CorpusRecord) -> str:
        self._index(record)
        self._put_into_force(record)
        self._store.set_status(record.id, CorpusStatus.ACTIVE)
        return ""

    def _change(self, _job: CorpusJob, record: CorpusRecord) -> str:
        self._put_into_force(record)
        return ""

    def _add(self, job: CorpusJob, record: CorpusRecord) -> str:
        index = self._index(record)
        upload = job.payload["upload"]
        base = job.payload.get("base")
        if base is None:
            base = index.next_id
            self._store.note_payload(job, {**job.payload, "base": base})
        wanted = partial(self._unknown, record, upload)
        if index.next_id == base:
            self._veto.require_room(record, sum(len(d.document.text) for d in wanted()))
            # Else an earlier run of this job was cut short after its documents were in the index.
            index.add(self._told(job, wanted()))
        now = time.time()
        rows = (
            DocumentRecord(number, d.document.source, d.sha256, len(d.document.text), now)
            for number, d in enumerate(wanted(), base)
        )
        self._store.add_documents(record.id, rows)
        self._put_into_force(record)
        added = index.next_id - base
        return f"{added} documents added"

    def _adopt(self, job: CorpusJob, record: CorpusRecord) -> str:
        index = self._index(record)
        source = (self._index_dir or Path(os.devnull)) / job.payload["index"]
        # Else an earlier run of this job was cut short after the index had the documents.
        if not (index.next_id and job.payload.get("begun")):
            self._veto.require_room(record, inspect(source))
            self._store.note_payload(job, {**job.payload, "begun": True})
            adopt(index, source, partial(self._report_copied, job))
        now = time.time()
        self._store.add_documents(record.id, adopted(index.view, now))
        self._put_into_force(record)
        return f"{len(index.view.live_ids())} documents taken over"

    def _report_copied(self, job: CorpusJob, done: int, total: int) -> None:
        self._store.report_progress(job, f"{done} of {total} segments copied", 0.9 * done / total)

    def _withdraw(self, job: CorpusJob, record: CorpusRecord) -> str:
        index = self._index(record)
        live = set(index.view.live_ids())
        gone = [number for number in job.payload["numbers"] if number in live]
        index.withdraw(gone)
        self._store.remove_documents(record.id, job.payload["numbers"])
        if job.payload["erase"]:
            index.erase()
        self._put_into_force(record)
        if job.payload["erase"]:
            self._veto.erase(record)
            discard_left(self._state_dir)
        return f"{len(gone)} documents withdrawn"

    def _delete(self, _job: CorpusJob, record: CorpusRecord) -> str:
        self._put_into_force(record)
        self._veto.erase(record)
        self._library.drop(record.directory)
        discard_left(self._state_dir)
        self._store.delete_corpus(record.id)
        return ""

    def _verify(self, _job: CorpusJob, record: CorpusRecord) -> str:
        index = self._index(record)
        index.verify()
        # Read anew, it may be sound again: a file was put back.
        self._put_into_force(record)
        view = index.view
        return f"{len(view.segments)} segments, {len(view.live_ids())} documents, no fault"

    def _put_into_force(self, record: CorpusRecord) -> None:
        """Bring a change into force in every gateway, then in every worker."""
        generation = self._publication.publish()
        self._publication.wait(generation)
        self._metrics.set_corpora_generation(generation)
        self._veto.bring_into_force(record)
        self._measure()

    def _index(self, record: CorpusRecord) -> Index:
        return self._library.index(record.directory, record.settings.minimum_match)

    def _unknown(self, record: CorpusRecord, upload: str) -> Iterator[UploadedDocument]:
        """The documents of an upload that the corpus does not have yet, each once."""
        seen: set[str] = set()
        batch: list[UploadedDocument] = []
        for document in read_upload(self._places.uploads / upload):
            if document.sha256 in seen:
                continue
            seen.add(document.sha256)
            batch.append(document)
            if len(batch) == 500:
                yield from self._fresh(record, batch)
                batch = []
        yield from self._fresh(record, batch)

    def _fresh(
        self, record: CorpusRecord, batch: list[UploadedDocument]
    ) -> Iterator[UploadedDocument]:
        known = self._store.known_digests(record.id, [document.sha256 for document in batch])
        yield from (document for document in batch if document.sha256 not in known)

    def _told(self, job: CorpusJob, documents: Iterable[UploadedDocument]) -> Iterator[Document]:
        """The documents, with the job's progress told as they are read."""
        last = time.monotonic()
        for count, document in enumerate(documents, 1):
            if time.monotonic() - last > _PROGRESS_SECONDS:
                last = time.monotonic()
                share = count / max(1, job.payload.get("count", count))
                self._store.report_progress(job, f"{count} documents indexed", 0.9 * share)
            yield document.document

    def _measure(self) -> None:
        counts = self._store.count_documents()
        by_label: dict[str, int] = {}
        for record in self._store.all():
            label = record.settings.label.value
            by_label[label] = by_label.get(label, 0) + counts.get(record.id, 0)
        self._metrics.set_corpus_documents(by_label)
