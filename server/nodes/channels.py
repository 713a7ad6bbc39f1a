"""What travels to nodes: three lists that are in force, each with its pointer, and their files.

The control process and a node have the same places in their state directories, so gateways and
workers of a node follow what lies there as they do beside the control process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server.settings import Settings

# The names of what is asked for go into paths on both sides.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9@._-]{0,127}")


class Channel(StrEnum):
    """One of the pointers that are followed.

    In the order in which a node puts them in force: whoever has a policy must have the rest.
    """

    KEYS = "keys"
    CORPORA = "corpora"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file to fetch: its name, its length in bytes and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


def place_of(settings: Settings, channel: Channel) -> Path:
    """The directory that a channel's pointer is in."""
    return {
        Channel.POLICY: settings.state_dir,
        Channel.KEYS: settings.keys,
        Channel.CORPORA: settings.corpora,
    }[channel]


def list_file(settings: Settings, channel: Channel, digest: str) -> Path:
    """The file that a pointer names by its SHA-256: a manifest, or a list."""
    return {
        Channel.POLICY: settings.snapshots / digest / "manifest.json",
        Channel.KEYS: settings.keys / "lists" / f"{digest}.json",
        Channel.CORPORA: settings.corpora / "registry" / f"{digest}.json",
    }[channel]


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in hex."""
    return _DIGEST.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether it names one thing in a directory and nothing outside it, nor a hidden one."""
    return _NAME.fullmatch(text) is not None
