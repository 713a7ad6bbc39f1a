"""Errors of the benches; each ends a run without figures.

BenchError (a ServerError)
├── InputMissing    a model, target or question file is not there or cannot be read
├── DeviceMissing   there is no CUDA device to measure
├── ServerDied      a server under test did not start, or ended
└── ArmInvalid      an arm's requests failed, or were not steered as the arm demands

Messages name files and numbers, never questions or answers.
"""

from __future__ import annotations

from server.errors import ServerError


class BenchError(ServerError):
    """Base of the benches' errors."""


class InputMissing(BenchError):
    """A model, target or question file is not there or cannot be read."""


class DeviceMissing(BenchError):
    """There is no CUDA device to measure."""


class ServerDied(BenchError):
    """A server under test did not start, or ended."""


class ArmInvalid(BenchError):
    """What was measured is not what the bench claims to measure."""
