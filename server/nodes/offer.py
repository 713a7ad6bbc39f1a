"""The control process's side: which files a node may fetch. Only of what is in force now.

Every file is named by digests or read from a list that one names, so nothing else of the state
directory can be asked for.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from guard.checksums import sha256
from guard.follower import Active, ActivePointer
from guard.uld.shelf import FILES
from server.errors import NotFound
from server.nodes.channels import Channel, is_name, list_file, place_of
from server.nodes.wire import FileOut, Listing, PointerOut
from server.settings import Settings
from tracing.errors import TracingError
from tracing.manifest import MANIFEST as INDEX_MANIFEST
from tracing.manifest import read_manifest

_HASHES_KEPT = 4096


class Offer:
    """The pointers and files of one control process's state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pointers = {c: ActivePointer(place_of(settings, c)) for c in Channel}
        # By path, length and time: files that are named by a digest never change.
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._hashing = threading.Lock()

    def active(self, channel: Channel) -> Active | None:
        """What is in force of a channel."""
        return self._pointers[channel].read()

    def pointer(self, channel: Channel) -> PointerOut | None:
        """The same for the wire."""
        active = self.active(channel)
        if active is None:
            return None
        return PointerOut(generation=active.generation, digest=active.digest, epoch=active.epoch)

    def changed(self) -> tuple[tuple[int, int], ...]:
        """A value that differs after every publication; cheap."""
        return tuple(pointer.changed() for pointer in self._pointers.values())

    def list_of(self, channel: Channel, digest: str) -> Path:
        """The manifest or list that a channel's pointer names.

        Raises:
            NotFound: the pointer names another one by now.
        """
        self._require_active(channel, digest)
        return _existing(list_file(self._settings, channel, digest))

    def snapshot_file(self, digest: str, name: str) -> Path:
        """A file of the policy in force.

        Raises:
            NotFound: another policy is in force by now, or has no such file.
        """
        self._require_active(Channel.POLICY, digest)
        if not is_name(name):
            raise _gone()
        return _existing(self._settings.snapshots / digest / name)

    def assistant(self, digest: str) -> Listing:
        """The files of an assistant that the policy in force names.

        Raises:
            NotFound: it names no such assistant.
        """
        paths = [self.assistant_file(digest, name) for name in FILES]
        return Listing(files=[self._described(path) for path in paths])

    def assistant_file(self, digest: str, name: str) -> Path:
        """One of them.

        Raises:
            NotFound: the policy in force names no such assistant, or it has no such file.
        """
        if name not in FILES or digest not in self._assistants():
            raise _gone()
        return _existing(self._settings.assistants / digest / name)

    def index(self, directory: str) -> Listing:
        """The present state of an index of the corpora in force.

        Raises:
            NotFound: there is none.
        """
        place = self._index(directory)
        try:
            raw = (place / INDEX_MANIFEST).read_bytes()
            names = [entry.name for entry in read_manifest(place).segments]
            files = [self._described(place / name) for name in names]
        except (TracingError, OSError):  # a merge replaced a segment: to be asked again
            raise _gone() from None
        if raw != (place / INDEX_MANIFEST).read_bytes():
            raise _gone()
        return Listing(files=files, manifest=raw.decode("ascii"))

    def index_file(self, directory: str, name: str) -> Path:
        """A segment of an index of the corpora in force.

        Raises:
            NotFound: there is none.
        """
        place = self._index(directory)
        if not is_name(name) or not name.endswith(".segment"):
            raise _gone()
        return _existing(place / name)

    def _index(self, directory: str) -> Path:
        active = self.active(Channel.CORPORA)
        if active is None or not is_name(directory):
            raise _gone()
        path = list_file(self._settings, Channel.CORPORA, active.digest)
        entries = json.loads(_existing(path).read_bytes())["corpora"]
        if directory not in {entry["directory"] for entry in entries}:
            raise _gone()
        return self._settings.corpora / "index" / directory

    def _assistants(self) -> set[str]:
        active = self.active(Channel.POLICY)
        return set() if active is None else named_assistants(self._settings, active.digest)

    def _require_active(self, channel: Channel, digest: str) -> None:
        active = self.active(channel)
        if active is None or active.digest != digest:
            raise _gone()

    def _described(self, path: Path) -> FileOut:
        stat = _existing(path).stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        with self._hashing:
            if key not in self._hashes:
                if len(self._hashes) >= _HASHES_KEPT:
                    self._hashes.clear()
                self._hashes[key] = sha256(path)
            return FileOut(name=path.name, bytes=stat.st_size, sha256=self._hashes[key])


def named_assistants(settings: Settings, digest: str) -> set[str]:
    """The digests of the assistants that a snapshot names."""
    try:
        rules = json.loads((settings.snapshots / digest / "uld.json").read_bytes())
    except FileNotFoundError:
        return set()
    return {rule["assistant"] for rule in rules if rule is not None}


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise _gone()
    return path


def _gone() -> NotFound:
    return NotFound("That is not in force.")
