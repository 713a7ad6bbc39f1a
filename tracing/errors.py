"""Errors of provenance.

TracingError
├── IndexProblem            an index on disk cannot be used
│   ├── IndexMissing        there is no index in that directory
│   ├── IndexCorrupt        a checksum, a size or the format does not fit
│   ├── IndexMismatch       it was made for another view (normaliser, tokenizer, depth)
│   └── IndexLocked         another process writes to it
├── ClusterUnavailable      Ray is not installed, or not there
├── UnknownDocument         no live document has that number
├── TooLong                 a document or a segment has more words than one segment may hold
└── CalibrationTooSmall     too few benign texts for the asked false-positive rate
"""

from __future__ import annotations


class TracingError(Exception):
    """Base of all errors of this package. Messages never hold document text."""


class IndexProblem(TracingError):
    """An index on disk cannot be used."""


class IndexMissing(IndexProblem):
    """There is no index in that directory."""


class IndexCorrupt(IndexProblem):
    """A checksum, a size or the format of an index file does not fit."""


class IndexMismatch(IndexProblem):
    """The index was made for another view: normaliser, tokenizer or gate depth."""


class IndexLocked(IndexProblem):
    """Another process writes to this index."""


class ClusterUnavailable(TracingError):
    """Ray is not installed, or cannot be reached."""


class UnknownDocument(TracingError, KeyError):
    """No live document has that number."""


class TooLong(TracingError, ValueError):
    """A document or a segment has more words than one segment may hold."""


class CalibrationTooSmall(TracingError, ValueError):
    """Too few benign texts for the asked false-positive rate."""
