"""Registered assistants on disk: immutable folders named by the SHA-256 of what is in them.

The control process writes them, workers read them. They know forget text by heart, so they are
their owner's only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from guard.errors import AssistantUnreadable
from guard.uld.card import CARD, Card
from guard.uld.rules import WITH_STAND_INS, Registered
from guard.uld.steps import LOG, Step, read_steps

NAMES = "names.json"
# What an assistant's digest is made of, in this order.
FILES = (CARD, "config.json", "model.safetensors")
_LONGEST_LOG = 256 * 1024 * 1024


class Shelf:
    """The folder of all registered assistants, and their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> dict[str, str]:
        """Digests by name."""
        try:
            found: dict[str, str] = json.loads((self._folder / NAMES).read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def registered(self) -> dict[str, Registered]:
        """The same with what the cards say of serving; one that cannot be read says nothing."""
        found = {}
        for name, digest in self.names().items():
            found[name] = Registered(digest)
            with suppress(AssistantUnreadable):
                if self.card(digest).data.get("stand_ins"):
                    found[name] = Registered(digest, *WITH_STAND_INS)
        return found

    def put(self, name: str, source: Path) -> str:
        """Copy an assistant's folder and give it a name; returns its digest.

        Raises:
            AssistantUnreadable: a file is missing or the card cannot be read.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._folder / f".{uuid.uuid4().hex}.draft"
        draft.mkdir(mode=0o700)
        try:
            for file in FILES:
                _copy(source / file, draft / file)
            Card.read(draft)  # what is kept, whatever becomes of the source
            _copy_log(source / LOG, draft / LOG)
            digest = _digest(draft)
            if not (self._folder / digest).is_dir():
                draft.rename(self._folder / digest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._write({**self.names(), name: digest})
        return digest

    def remove(self, name: str) -> None:
        """Forget a name, and the folder if no other name has it."""
        names = self.names()
        digest = names.pop(name)
        self._write(names)
        if digest not in names.values():
            doomed = self._folder / f".{uuid.uuid4().hex}.draft"
            with suppress(FileNotFoundError):
                (self._folder / digest).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def folder(self, digest: str) -> Path:
        """The folder of a digest, after verifying it.

        Raises:
            AssistantUnreadable: it is not there or damaged.
        """
        folder = self._folder / digest
        try:
            sound = _digest(folder) == digest
        except OSError:
            sound = False
        if not sound:
            raise AssistantUnreadable(f"assistant {digest[:12]} is missing or damaged")
        return folder

    def card(self, digest: str) -> Card:
        """The card of a registered assistant.

        Raises:
            AssistantUnreadable: it cannot be read.
        """
        return Card.read(self._folder / digest)

    def steps(self, digest: str) -> list[Step]:
        """How a registered assistant was trained; nothing where its folder held no log."""
        return read_steps(self._folder / digest / LOG)

    def discard_drafts(self) -> None:
        """Remove what an interrupted `put` or `remove` left. Only the one writer may call this."""
        for draft in self._folder.glob(".*.draft"):
            shutil.rmtree(draft, ignore_errors=True)

    def _write(self, names: dict[str, str]) -> None:
        draft = self._folder / f"{NAMES}.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(names, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / NAMES)


def _copy(source: Path, to: Path) -> None:
    """Copy a regular file for the owner's eyes; a device would never end."""
    try:
        if not source.is_file():
            raise FileNotFoundError
        shutil.copyfile(source, to)
    except OSError:
        raise AssistantUnreadable(f"the assistant's {source.name} cannot be read") from None
    to.chmod(0o600)


def _copy_log(source: Path, to: Path) -> None:
    """The log is for reading only and no part of the digest; one that does not do is left out."""
    with suppress(AssistantUnreadable, OSError):
        if source.is_file() and source.stat().st_size <= _LONGEST_LOG:
            _copy(source, to)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in FILES:
        with (folder / name).open("rb") as file:
            whole = hashlib.file_digest(file, "sha256")
        digest.update(whole.digest())
    return digest.hexdigest()
