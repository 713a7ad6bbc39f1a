"""Errors of the detectors.

DetectorError
├── EncoderUnavailable    the encoder's model could not be found or loaded
├── TablesError           stored classifier tables do not have the expected form
└── PromptTooLong         a conversation has more windows than one request may take
"""

from __future__ import annotations


class DetectorError(Exception):
    """Base of all errors of this package. Messages never hold prompt or forget text."""


class EncoderUnavailable(DetectorError):
    """The encoder's model could not be found or loaded."""


class TablesError(DetectorError, ValueError):
    """Stored classifier tables do not have the expected form."""


class PromptTooLong(DetectorError, ValueError):
    """A conversation has more windows than one request may take."""
