"""Which policy is in force, and which process has taken it up.

The control process publishes a pointer file; every gateway and worker follows it, loads the
snapshot it names and acknowledges the generation in a file of its own. A follower's file counts
only while its process lives: the process holds a lock that the kernel drops with it, so a killed
worker is never waited for. If the control process is gone, followers go on under the last policy.

Where control processes take turns, the pointer carries the number of the lead under which it was
moved (a fencing token: Kleppmann, "How to do distributed locking", 2016), and is never moved under
a lower one: a process that led once and does not know it yet puts nothing in force.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard.errors import GuardError, PointerFenced, SnapshotError

POLL_SECONDS = 0.05
# What could not be loaded is tried again after so long, then after twice as long, and so on.
RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Active:
    """The policy in force: generations only grow, digests may come back (a rollback).

    `epoch` numbers the lead under which it was published; 0 where nobody takes turns. The same
    policy under another lead is the same.
    """

    generation: int
    digest: str
    epoch: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class FollowerState:
    """What one process has taken up.

    `kind` is "gateway" or "worker". `generation` and `digest` are in force there (0 and "" before
    the first). `failed_generation` is the newest one it could not load, with the class of error; 0
    once that one or a newer one is in force.
    """

    id: str
    kind: str
    pid: int
    generation: int = 0
    digest: str = ""
    failed_generation: int = 0
    error: str = ""


class ActivePointer:
    """The pointer file in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "active.json"

    def read(self) -> Active | None:
        """The policy in force; None before the first is published."""
        try:
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        return Active(content["generation"], content["digest"], content.get("epoch", 0))

    def publish(self, generation: int, digest: str, epoch: int = 0) -> None:
        """Put a policy in force, durably and at once for all followers.

        Raises:
            PointerFenced: it was moved, or claimed, under a higher epoch.
        """
        with self._fenced(epoch):
            self._write(Active(generation, digest, epoch))

    def claim(self, epoch: int) -> None:
        """Refuse whoever moves the pointer under a lower epoch from now on.

        What it names stays; where it names nothing yet, the first to publish claims it.

        Raises:
            PointerFenced: it was claimed under a higher epoch.
        """
        with self._fenced(epoch) as active:
            if active is not None and active.epoch < epoch:
                self._write(Active(active.generation, active.digest, epoch))

    def changed(self) -> tuple[int, int]:
        """A value that differs after every publication."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_ino)

    @contextmanager
    def _fenced(self, epoch: int) -> Iterator[Active | None]:
        """Look at the pointer and move it in one step. Only looking and moving is done in here."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            active = self.read()
            if active is not None and active.epoch > epoch:
                raise PointerFenced("the pointer was moved under a later lead")
            yield active
        finally:
            os.close(descriptor)

    def _write(self, active: Active) -> None:
        content = asdict(active)
        if not active.epoch:
            del content["epoch"]
        _replace(self._path, content, durable=True)


def followers(state_dir: Path) -> list[FollowerState]:
    """The states of all live followers; files of dead ones are removed."""
    found = []
    for lock in sorted((state_dir / "followers").glob("*.lock")):
        path = lock.with_suffix(".json")
        if not _is_held(lock):
            path.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        else:
            # It may not have told anything yet, or withdraw just now.
            with suppress(FileNotFoundError):
                found.append(FollowerState(**json.loads(path.read_bytes())))
    return found


class Follower:
    """Follows the pointer on a thread of its own.

    What cannot be loaded is tried again, less and less often, for as long as the pointer names it.

    Args:
        state_dir: where the pointer and the followers' files are.
        kind: "gateway" or "worker".
        load: makes a policy the current one, or raises; then the one before it stays in force.
        on_fault: told of what else fails: the pointer cannot be read, nothing can be acknowledged.
    """

    def __init__(
        self,
        state_dir: Path,
        kind: str,
        load: Callable[[Active], None],
        on_fault: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._pointer = ActivePointer(state_dir)
        self._load, self._on_fault = load, on_fault
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{kind}-follower", daemon=True)
        directory = state_dir / "followers"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state = FollowerState(uuid.uuid4().hex, kind, os.getpid())
        self._path = directory / f"{self.state.id}.json"
        self._lock = _hold(self._path.with_suffix(".lock"))
        self._seen = (-1, -1)
        self._epoch = 0
        self._retry_seconds, self._retry_at = RETRY_SECONDS, float("inf")
        self._told: FollowerState | None = None
        try:
            self._acknowledge(self.state)
        except OSError:
            self._withdraw()
            raise

    def start(self) -> None:
        """Take up the policy in force now, then go on following in the background."""
        self._catch_up_or_try_again()
        self._thread.start()

    def stop(self) -> None:
        """Stop following and withdraw from the list of followers."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._withdraw()

    def catch_up(self) -> None:
        """Take up the policy in force if it is new."""
        seen = self._pointer.changed()
        if seen == self._seen:
            return
        self._seen = seen
        active = self._pointer.read()
        if active is None or 0 < active.epoch < self._epoch:
            return  # the second was put there by a process that leads no more
        self._epoch = max(self._epoch, active.epoch)
        if active.generation == self.state.generation:
            if self._told != self.state:
                self._acknowledge(self.state)  # the disk was full when it was to be told
            return
        try:
            self._load(active)
        except Exception as error:
            self._fail(active, error)
        else:
            self._retry_seconds, self._retry_at = RETRY_SECONDS, float("inf")
            self._acknowledge(_with(self.state, active))

    def look_again(self) -> None:
        """Have the thread try once more what could not be loaded."""
        self._seen = (-1, -1)

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            if time.monotonic() >= self._retry_at:
                self.look_again()
            if not self._catch_up_or_try_again():
                self._stop.wait(1.0)

    def _catch_up_or_try_again(self) -> bool:
        """`catch_up`; what fails about it (a full disk, say) is left to be tried again."""
        try:
            self.catch_up()
        except Exception as error:
            # The policy in force stays; the lagging generation is seen by the control process.
            logger.error("following the active policy failed; trying again")
            self._on_fault(error)
            self._seen = (-1, -1)
            return False
        return True

    def _withdraw(self) -> None:
        os.close(self._lock)
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(".lock").unlink(missing_ok=True)

    def _fail(self, active: Active, error: Exception) -> None:
        self._retry_at = time.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        known = isinstance(error, GuardError)
        reason = type(error).__name__ if known else "InternalError"
        # What is wrong with a snapshot is told by digests, versions and names of files alone.
        told = f"{reason}: {error}" if isinstance(error, SnapshotError) else reason
        logger.error("generation %d cannot be used here: %s", active.generation, told)
        values = asdict(self.state) | {"failed_generation": active.generation, "error": reason}
        self._acknowledge(FollowerState(**values))
        if not isinstance(error, SnapshotError):
            logger.debug("cause", exc_info=error)

    def _acknowledge(self, state: FollowerState) -> None:
        self.state = state
        _replace(self._path, asdict(state), durable=False)
        self._told = state


def _with(state: FollowerState, active: Active) -> FollowerState:
    values = asdict(state) | {"generation": active.generation, "digest": active.digest}
    later = state.failed_generation if state.failed_generation > active.generation else 0
    return FollowerState(**values | {"failed_generation": later, "error": ""})


def _replace(path: Path, content: dict[str, Any], *, durable: bool) -> None:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _hold(path: Path) -> int:
    # Locked before it has its name, so that nobody sees it free and takes it for a dead one's.
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    draft.rename(path)
    return descriptor


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
