"""Errors of the guard.

GuardError
├── GuardParamsError      the request's guard parameters are malformed
├── SnapshotError         a policy snapshot cannot be used
│   ├── SnapshotMissing   no directory of that digest
│   ├── SnapshotOutdated  another version of Lethegate compiled it
│   └── SnapshotCorrupt   checksum or tokenizer does not fit
├── PointerFenced         another process leads by now, and only it may move the pointer
├── CorporaUnusable       the corpora or their index cannot be used
├── VocabularyError       the tokenizer's bytes could not be established
├── CompileError          a set of targets cannot be compiled into a snapshot
├── ModelUnreadable       a model's files are missing or cannot be loaded
├── AssistantError        an assistant cannot be used
│   ├── AssistantUnreadable  no assistant, or a damaged one
│   ├── AssistantMismatch    it was trained for another model or tokenizer
│   └── AssistantFull        its memory has no room for a request
└── TrainingError         an assistant cannot be trained like this
    └── TrainingStopped   it was stopped; a checkpoint is kept
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


class SnapshotOutdated(SnapshotError):
    """Another version of Lethegate compiled the snapshot."""


class SnapshotCorrupt(SnapshotError):
    """A snapshot's checksum or tokenizer fingerprint does not fit."""


class PointerFenced(GuardError):
    """The pointer was moved under a later lead."""


class CorporaUnusable(GuardError):
    """The list of corpora, or one of their indexes, is missing or damaged."""


class VocabularyError(GuardError):
    """The bytes of the tokenizer's vocabulary could not be established."""


class CompileError(GuardError):
    """A set of targets cannot be compiled into a snapshot."""


class ModelUnreadable(GuardError):
    """A model's files are missing or cannot be loaded."""


class AssistantError(GuardError):
    """An assistant cannot be used."""


class AssistantUnreadable(AssistantError):
    """There is no assistant, or a damaged one."""


class AssistantMismatch(AssistantError):
    """The assistant was trained for another model or tokenizer."""


class AssistantFull(AssistantError):
    """The assistant's memory has no room for a request."""


class TrainingError(GuardError):
    """An assistant cannot be trained like this."""


class TrainingStopped(TrainingError):
    """The training was stopped; its checkpoint is kept."""
