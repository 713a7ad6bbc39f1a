"""GuardParams: the one thing that crosses from the gateway to vLLM's worker per request.

vLLM carries it as `vllm_xargs`, which holds only strings, numbers and lists of them, so the
mapping is flat and small; bulk data is found by the snapshot's digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guard.errors import GuardParamsError

PREFIX = "lethegate_"
MAX_INDICES = 4096
MAX_WEIGHT = 10.0
# Numbers that may be missing, and the largest that each may be.
_OPTIONAL = {"uld_weight": MAX_WEIGHT, "uld_rate": 1.0}
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class GuardParams:
    """How one request is steered.

    `digest` names the policy snapshot the request is pinned to for its life. `nonce`
    (1 .. 2**53-1, so that JSON numbers keep it exact) is how the worker's facts about the
    request are found again by the gateway. `targets` and `items` index the snapshot's units.
    `uld_weight` and `uld_rate`, where the operator has given the key its own, stand in for those of
    the targets.
    """

    digest: str
    nonce: int
    targets: tuple[int, ...] = ()
    items: tuple[int, ...] = ()
    uld_weight: float | None = None
    uld_rate: float | None = None

    def to_xargs(self) -> dict[str, str | int | float | list[int]]:
        """The flat form for `vllm_xargs`."""
        numbers = {"uld_weight": self.uld_weight, "uld_rate": self.uld_rate}
        return {
            **{f"{PREFIX}{name}": value for name, value in numbers.items() if value is not None},
            f"{PREFIX}digest": self.digest,
            f"{PREFIX}nonce": self.nonce,
            f"{PREFIX}targets": list(self.targets),
            f"{PREFIX}items": list(self.items),
        }

    @classmethod
    def from_xargs(cls, xargs: Mapping[str, Any] | None) -> GuardParams | None:
        """Read the flat form; None when no key is ours.

        Raises:
            GuardParamsError: a key of ours is missing, unknown or of the wrong type.
        """
        ours = {k.removeprefix(PREFIX): v for k, v in (xargs or {}).items() if k.startswith(PREFIX)}
        if not ours:
            return None
        if ours.keys() - _OPTIONAL.keys() != {"digest", "nonce", "targets", "items"}:
            raise GuardParamsError("keys must be digest, nonce, targets and items")
        digest, nonce = ours["digest"], ours["nonce"]
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise GuardParamsError("digest must be 64 hexadecimal digits")
        if not (isinstance(nonce, int) and 0 < nonce < 2**53):
            raise GuardParamsError("nonce must be in 1 .. 2**53-1")
        return cls(
            digest,
            nonce,
            _indices(ours, "targets"),
            _indices(ours, "items"),
            **{name: _number(ours, name) for name in _OPTIONAL if name in ours},
        )


def _indices(ours: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = ours[key]
    if not isinstance(value, list | tuple) or len(value) > MAX_INDICES:
        raise GuardParamsError(f"{key} must be a list of at most {MAX_INDICES} indices")
    if not all(isinstance(i, int) and 0 <= i < 2**31 for i in value):
        raise GuardParamsError(f"{key} must hold indices")
    return tuple(value)


def _number(ours: Mapping[str, Any], key: str) -> float:
    value = ours[key]
    if type(value) not in (int, float) or not 0 < value <= _OPTIONAL[key]:
        raise GuardParamsError(f"{key} must be a number above 0, at most {_OPTIONAL[key]:g}")
    return float(value)
