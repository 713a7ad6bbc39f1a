"""Policy snapshots: immutable directories named by the SHA-256 of their manifest.

A snapshot holds everything that workers and gateways need to enforce one set of targets. It is
written whole beside its final name and then renamed, so a directory with a digest's name is
complete or does not exist; every file's checksum is verified on load. Arrays are `.npy` files,
memory-mapped; texts are JSON. The files hold forget text: they are readable by their owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guard.checksums import MANIFEST, are_sound_elsewhere, damaged_file, sha256
from guard.errors import SnapshotCorrupt, SnapshotMissing, SnapshotOutdated

# Of the directory, and of what the compiler puts in it. Whoever changes what arrays or documents
# mean raises the second: a snapshot of another version is compiled anew, and never read in part.
FORMAT = 2
COMPILER_VERSION = 10


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified snapshot on disk.

    `meta` is what its compiler wrote beside the files: vocabulary fingerprint, encoder id.
    """

    digest: str
    directory: Path
    meta: Mapping[str, Any]

    def array(self, name: str) -> npt.NDArray[Any]:
        """One array, memory-mapped read-only."""
        return np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """All arrays of a group, by their names without the group's `prefix.`."""
        names = (p.stem for p in sorted(self.directory.glob(f"{prefix}.*.npy")))
        return {name.removeprefix(f"{prefix}."): self.array(name) for name in names}

    def has(self, name: str) -> bool:
        """Whether there is a document of that name."""
        return (self.directory / f"{name}.json").exists()

    def document(self, name: str) -> Any:
        """One JSON document."""
        return json.loads((self.directory / f"{name}.json").read_bytes())


def write_snapshot(
    root: Path,
    *,
    meta: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    documents: Mapping[str, Any],
) -> str:
    """Write a snapshot under `root` and return its digest.

    The digest covers every byte, so the same content written twice is one directory.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = root / f".{uuid.uuid4().hex}.draft"
    draft.mkdir(mode=0o700)
    try:
        for name, array in arrays.items():
            with _create(draft / f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file)
        for name, content in documents.items():
            _write(draft / f"{name}.json", _dump(content))
        files = {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in draft.iterdir()}
        versions = {"format": FORMAT, "compiler": COMPILER_VERSION}
        manifest = _dump({**versions, "meta": meta, "files": files})
        _write(draft / MANIFEST, manifest)
        digest = hashlib.sha256(manifest).hexdigest()
        _publish(draft, root / digest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def load_snapshot(root: Path, digest: str, pause: Callable[[], object] | None = None) -> Snapshot:
    """Open a snapshot after verifying every file.

    Args:
        pause: called after every piece of work; with it, another process is asked first.

    Raises:
        SnapshotMissing: there is no directory of that name.
        SnapshotOutdated: another version of Lethegate compiled it.
        SnapshotCorrupt: its content is not what its name says.
    """
    directory = root / digest
    try:
        raw = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise SnapshotMissing(f"no policy snapshot {digest[:12]}") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise SnapshotCorrupt(f"the manifest of policy snapshot {digest[:12]} is damaged")
    manifest = _manifest_in(raw, digest)
    _check_version(manifest, digest)
    if not _is_whole(manifest):
        raise SnapshotCorrupt(f"the manifest of policy snapshot {digest[:12]} lacks a part")
    if pause is None or not are_sound_elsewhere(directory):
        damaged = damaged_file(directory, pause or (lambda: None))
        if damaged is not None:
            raise SnapshotCorrupt(f"file {damaged} of policy snapshot {digest[:12]} is damaged")
    return Snapshot(digest, directory, manifest["meta"])


def _manifest_in(raw: bytes, digest: str) -> Mapping[str, Any]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise SnapshotCorrupt(f"the manifest of policy snapshot {digest[:12]} cannot be read")
    return manifest


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    files = manifest.get("files")
    entries = list(files.values()) if isinstance(files, dict) else [None]
    return isinstance(manifest.get("meta"), dict) and all(
        isinstance(entry, dict) and "sha256" in entry for entry in entries
    )


def _check_version(manifest: Mapping[str, Any], digest: str) -> None:
    # Earlier ones name no compiler here.
    found = manifest.get("format"), manifest.get("compiler", "an earlier one")
    if found != (FORMAT, COMPILER_VERSION):
        raise SnapshotOutdated(
            f"policy snapshot {digest[:12]} was compiled by another version of Lethegate (format "
            f"{found[0]}, compiler {found[1]}; here {FORMAT} and {COMPILER_VERSION}); the control "
            "process compiles the targets anew when it starts"
        )


def discard_drafts(root: Path) -> None:
    """Remove what an interrupted writer left behind. Only the one writer may call this."""
    for draft in root.glob(".*.draft"):
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, final: Path) -> None:
    _sync_directory(draft)
    try:
        draft.rename(final)
    except OSError:
        # The same content is there already; a damaged copy of it must not win over a sound one.
        try:
            load_snapshot(final.parent, final.name)
        except (SnapshotCorrupt, SnapshotMissing, SnapshotOutdated):
            final.rename(draft.with_suffix(".damaged.draft"))
            draft.rename(final)
    _sync_directory(final.parent)


def _create(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        _flush(file)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
