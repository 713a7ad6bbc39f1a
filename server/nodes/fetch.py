"""Fetching what is in force into a node's state directory.

Files come into a folder beside their place, their owner's only, and a fetch that was cut off goes
on where it ended. Nothing is moved to its place before its SHA-256 is right: a manifest's is its
pointer's digest, and a file's is in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from guard.checksums import MANIFEST, damaged_file, sha256
from guard.errors import AssistantUnreadable
from guard.uld.shelf import FILES, Shelf
from server.errors import ControlRefused, DamagedFile
from server.log import get_logger
from server.nodes.channels import Channel, FileEntry, is_digest, is_name, list_file
from server.nodes.link import Link
from server.nodes.offer import named_assistants
from server.nodes.wire import Listing
from server.settings import Settings
from tracing.container import flush_directory
from tracing.manifest import MANIFEST as INDEX_MANIFEST

_LEAST_FREE_BYTES = 64 * 1024 * 1024

log = get_logger("node")


class Fetcher:
    """Fetches over one link. One per state directory."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self._settings, self._link = settings, link
        self._sound: set[Path] = set()

    def fetch(self, channel: Channel, digest: str) -> bool:
        """Have all that a pointer to this digest needs; whether anything was missing or damaged.

        Raises:
            ControlUnreachable: there is no answer; what came is kept.
            ControlRefused: what came cannot be used.
            NotFound: something else is in force by now.
            OSError: the disk is full, or cannot be written.
        """
        if channel is Channel.POLICY:
            return self._snapshot(digest)
        fetched = self._list(channel, digest)
        if channel is Channel.CORPORA:
            for name in self.directories(digest):
                fetched |= self._index(name)
        return fetched

    def forget_what_is_sound(self) -> None:
        """Read everything again when it is fetched next."""
        self._sound.clear()

    def directories(self, digest: str) -> list[str]:
        """The indexes that a list of corpora names.

        Raises:
            ControlRefused: a name among them is none.
        """
        raw = list_file(self._settings, Channel.CORPORA, digest).read_bytes()
        found = [str(entry["directory"]) for entry in json.loads(raw)["corpora"]]
        if not all(map(is_name, found)):
            raise ControlRefused("a list names what is no directory")
        return found

    def _snapshot(self, digest: str) -> bool:
        final = self._settings.snapshots / digest
        damaged = not _is_sound(final, digest)
        if damaged:
            shutil.rmtree(final, ignore_errors=True)
            draft = _draft(final)
            manifest = self._verified(f"lists/{Channel.POLICY}/{digest}", digest)
            self._files(f"snapshots/{digest}", draft, _entries(manifest))
            _write(draft / MANIFEST, manifest)
            _move(draft, final)
        fetched = damaged
        for assistant in named_assistants(self._settings, digest):
            fetched |= self._assistant(assistant)
        return fetched

    def _assistant(self, digest: str) -> bool:
        final = self._settings.assistants / digest
        if not is_digest(digest):
            raise ControlRefused("a policy names what is no assistant")
        if _is_shelved(self._settings.assistants, digest):
            return False
        shutil.rmtree(final, ignore_errors=True)
        entries = _listed(self._link.listing(f"assistants/{digest}"))
        hashes = {entry.name: entry.sha256 for entry in entries}
        if sorted(hashes) != sorted(FILES) or _of_all(hashes) != digest:
            raise DamagedFile("an assistant's files are not those of its digest")
        draft = _draft(final)
        self._files(f"assistants/{digest}", draft, entries)
        _move(draft, final)
        return True

    def _list(self, channel: Channel, digest: str) -> bool:
        final = list_file(self._settings, channel, digest)
        if final.is_file() and sha256(final) == digest:
            return False
        content = self._verified(f"lists/{channel}/{digest}", digest)
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = final.with_name(f".{final.name}.draft")
        _write(draft, content)
        _move(draft, final)
        return True

    def _index(self, directory: str) -> bool:
        """Bring an index to the control process's state: segments first, then its manifest."""
        place = self._settings.corpora / "index" / directory
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        listing = self._link.listing(f"indexes/{directory}")
        entries = _listed(listing)
        if not all(entry.name.endswith(".segment") for entry in entries):
            raise ControlRefused("a list names what is no segment")
        missing = [entry for entry in entries if not self._has(place, entry)]
        for entry in missing:
            self._file(f"indexes/{directory}", place, entry)
        draft = place / f".{INDEX_MANIFEST}.draft"
        _write(draft, listing.manifest.encode())
        _move(draft, place / INDEX_MANIFEST)
        named = {entry.name for entry in entries}
        for path in [*place.glob("*.segment"), *place.glob(".*.part")]:
            # Erased documents go from this disk, too.
            if path.name not in named:
                path.unlink()
        return bool(missing)

    def _has(self, place: Path, entry: FileEntry) -> bool:
        """Whether a segment is there and sound; each is read once in the life of this process."""
        path = place / entry.name
        if path in self._sound:
            return path.is_file()
        if not path.is_file() or sha256(path) != entry.sha256:
            return False
        self._sound.add(path)
        return True

    def _verified(self, path: str, digest: str) -> bytes:
        content = self._link.small(path)
        if hashlib.sha256(content).hexdigest() != digest:
            log.error("file_damaged_on_its_way", kind=path.partition("/")[0])
            raise DamagedFile("a manifest is not that of its digest")
        return content

    def _files(self, path: str, draft: Path, entries: Sequence[FileEntry]) -> None:
        draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stray in {p.name for p in draft.iterdir()} - {entry.name for entry in entries}:
            if not stray.startswith("."):
                (draft / stray).unlink()
        for entry in entries:
            if not (draft / entry.name).is_file():
                self._file(path, draft, entry)

    def _file(self, path: str, directory: Path, entry: FileEntry) -> None:
        """Fetch one file, or the rest of it; under its name it is whole and right."""
        part = directory / f".{entry.name}.part"
        _require_room(directory, entry.bytes)
        self._append(f"{path}/{entry.name}", part, entry.bytes)
        if sha256(part) != entry.sha256:
            part.unlink()
            log.error("file_damaged_on_its_way", kind=path.partition("/")[0])
            raise DamagedFile("a file is not that of its digest")
        _move(part, directory / entry.name)

    def _append(self, path: str, part: Path, length: int) -> None:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            have = file.seek(0, os.SEEK_END)
            if have > length:
                have = 0
            if have == length and have:
                return
            with self._link.pieces(path, have) as (goes_on, pieces):
                have = have if goes_on else 0
                file.seek(have)
                file.truncate()
                for piece in pieces:
                    have += len(piece)
                    if have > length:
                        raise DamagedFile("a file is longer than it says")
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _is_sound(directory: Path, digest: str) -> bool:
    """Whether a snapshot on this disk is what its name says, every bit of it."""
    try:
        if sha256(directory / MANIFEST) != digest:
            return False
        return damaged_file(directory) is None
    except (OSError, ValueError, KeyError):
        return False


def _is_shelved(assistants: Path, digest: str) -> bool:
    try:
        Shelf(assistants).folder(digest)
    except AssistantUnreadable:
        return False
    return True


def _entries(manifest: bytes) -> list[FileEntry]:
    files = json.loads(manifest)["files"].items()
    return _named([FileEntry(name, int(f["bytes"]), str(f["sha256"])) for name, f in files])


def _listed(listing: Listing) -> list[FileEntry]:
    return _named([FileEntry(file.name, file.bytes, file.sha256) for file in listing.files])


def _named(entries: list[FileEntry]) -> list[FileEntry]:
    if not all(is_name(entry.name) for entry in entries):
        raise ControlRefused("a list names what is no file")
    return entries


def _of_all(hashes: dict[str, str]) -> str:
    """An assistant's digest, as `guard.uld.shelf` makes it."""
    return hashlib.sha256(b"".join(bytes.fromhex(hashes[name]) for name in FILES)).hexdigest()


def _require_room(directory: Path, length: int) -> None:
    if shutil.disk_usage(directory).free < length + _LEAST_FREE_BYTES:
        raise OSError(28, "No space left on device")


def _draft(final: Path) -> Path:
    return final.with_name(f".{final.name}.draft")


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _move(draft: Path, final: Path) -> None:
    if draft.is_dir():
        flush_directory(draft)
    draft.rename(final)
    flush_directory(final.parent)
