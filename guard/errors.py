"""Errors of the guard.

GuardError
├── GuardParamsError      the request's guard parameters are malformed
├── SnapshotError         a policy snapshot cannot be used
│   ├── SnapshotMissing   no directory of that digest
│   └── SnapshotCorrupt   checksum, format or tokenizer does not fit
├── VocabularyError       the tokenizer's bytes could not be established
└── CompileError          a set of targets cannot be compiled into a snapshot
"""

from __future__ import annotations


class GuardError(Exception):
    """Base of all errors of this package. Messages never hold forget text."""


class GuardParamsError(GuardError, ValueError):
    """The request's guard parameters are malformed."""


class SnapshotError(GuardError):
    """A policy snapshot cannot be used."""


class SnapshotMissing(SnapshotError):
    """No snapshot directory of that digest."""


class SnapshotCorrupt(SnapshotError):
    """A snapshot's checksum, format or tokenizer fingerprint does not fit."""


class VocabularyError(GuardError):
    """The bytes of the tokenizer's vocabulary could not be established."""


class CompileError(GuardError):
    """A set of targets cannot be compiled into a snapshot."""
