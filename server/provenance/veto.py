"""The corpora's part in the veto: their documents in the policy that workers follow.

What is vetoed is compiled into the policy snapshot, by the policy's job. A corpus's job asks for
one where its own corpus changed what is to be vetoed, and waits until every worker has it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectors.targets import Enforcement
from guard.vetoed import VetoedCorpus, corpora_in
from server.errors import (
    CorpusDamaged,
    CorpusNotAcknowledged,
    CorpusNotVetoed,
    CorpusTooLarge,
    PolicyNotCompiled,
)
from server.log import get_logger
from server.policy import Publisher
from server.provenance.library import Library
from server.provenance.store import CorpusRecord, CorpusStore
from server.store import Store
from server.tables import CorpusStatus, JobState
from server.worklist import Worklist
from tracing.errors import TracingError
from tracing.index import View

POLL_SECONDS = 0.02

log = get_logger("corpora")


class CorpusVeto:
    """What of the corpora is vetoed, and bringing that into force.

    Args:
        snapshots: the directory of the policy snapshots; `publisher` points to one of them.
        notify: called when a job for the policy's worker is queued.
        limit: most characters of all vetoed corpora.
    """

    def __init__(
        self,
        store: Store,
        worklist: Worklist,
        corpora: CorpusStore,
        library: Library,
        publisher: Publisher,
        snapshots: Path,
        *,
        notify: Callable[[], None],
        limit: int,
        stopped: threading.Event,
    ) -> None:
        self._store, self._worklist, self._corpora = store, worklist, corpora
        self._library, self._publisher, self._snapshots = library, publisher, snapshots
        self._notify, self._limit, self._stopped = notify, limit, stopped

    def wanted(self) -> list[VetoedCorpus]:
        """What a policy is to veto, for its compiler.

        Raises:
            PolicyNotCompiled: the index of a vetoed corpus cannot be read.
        """
        try:
            return self._wanted()
        except CorpusDamaged as fault:
            raise PolicyNotCompiled(str(fault)) from None

    def in_force(self) -> Mapping[str, dict[str, Any]]:
        """What the active policy vetoes, by corpus; see `guard.vetoed.corpora_document`."""
        active = self._publisher.read()
        return {} if active is None else corpora_in(self._snapshots / active.digest)

    def require_room(self, record: CorpusRecord, characters: int = 0) -> None:
        """Refuse documents, or settings, that the table would be too large with.

        Raises:
            CorpusTooLarge: so many more characters exceed the limit.
        """
        if not _is_vetoed(record):
            return
        vetoed = {other.id for other in self._corpora.all() if _is_vetoed(other)}
        total = self._corpora.count_characters({*vetoed, record.id}) + characters
        if total > self._limit:
            raise CorpusTooLarge(
                f"the vetoed corpora would have {total} characters, and may have {self._limit}"
            )

    def bring_into_force(self, record: CorpusRecord) -> None:
        """Have the policy compiled anew if it does not veto what it should of a corpus; wait.

        Raises:
            CorpusDamaged: the index of a vetoed corpus cannot be read.
            CorpusNotVetoed: the policy did not come into force.
            CorpusNotAcknowledged: this process is ending.
        """
        if not self._is_due(record):
            return
        job = self._worklist.request_recompile()
        self._notify()
        while job.state not in (JobState.DONE, JobState.FAILED):
            if self._stopped.wait(POLL_SECONDS):
                raise CorpusNotAcknowledged("the control process is ending")
            job = self._store.jobs().find(job.id)
        if job.state is JobState.FAILED:
            reason = job.error.message if job.error is not None else "it was cancelled"
            raise CorpusNotVetoed(f"the policy that vetoes the corpus is not in force: {reason}")

    def erase(self, record: CorpusRecord) -> None:
        """Delete the superseded policies that veto what a corpus no longer has.

        Requests that began under one go on: their worker has it in memory.
        """
        active = self._publisher.read()
        now = self.in_force().get(record.id, {}).get("state")
        for snapshot in self._snapshots.glob("*/") if self._snapshots.is_dir() else ():
            if active is not None and snapshot.name == active.digest:
                continue
            held = corpora_in(snapshot).get(record.id)
            if held is not None and held["state"] != now:
                doomed = snapshot.with_name(f".doomed-{snapshot.name}")
                snapshot.rename(doomed)
                shutil.rmtree(doomed)
                log.info("snapshot_erased")

    def _is_due(self, record: CorpusRecord) -> bool:
        """Whether the active policy has another state of a corpus than the index."""
        there = self.in_force().get(record.id)
        if there is None and not _is_vetoed(record):
            return False
        state = next((c.state for c in self._wanted() if c.id == record.id), None)
        return state != (None if there is None else there["state"])

    def _wanted(self) -> list[VetoedCorpus]:
        found = (self._vetoed(record) for record in self._corpora.all() if _is_vetoed(record))
        return [corpus for corpus in found if corpus is not None]

    def _vetoed(self, record: CorpusRecord) -> VetoedCorpus | None:
        asked = record.settings
        try:
            view = self._library.index(record.directory, asked.minimum_match).view
        except (TracingError, OSError):
            raise _damaged(record) from None
        numbers = view.live_ids()
        if not numbers:
            return None
        state = [record.directory, asked.scope, asked.minimum_match_tokens, numbers]
        return VetoedCorpus(
            id=record.id,
            scope=asked.scope,
            minimum_match=asked.minimum_match_tokens,
            state=hashlib.sha256(json.dumps(state).encode()).hexdigest(),
            texts=partial(_texts, record, view, numbers),
        )


def _is_vetoed(record: CorpusRecord) -> bool:
    asked = record.settings
    return (
        asked.veto
        and asked.enforcement is Enforcement.ENFORCE
        and record.status is not CorpusStatus.WITHDRAWN
    )


def _texts(record: CorpusRecord, view: View, numbers: list[int]) -> Iterator[str]:
    try:
        for number in numbers:
            yield view.document(number).text
    except (TracingError, OSError):
        raise PolicyNotCompiled(str(_damaged(record))) from None


def _damaged(record: CorpusRecord) -> CorpusDamaged:
    return CorpusDamaged(f"the index of the corpus {record.id} cannot be read")
