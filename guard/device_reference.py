"""The device kernels on CPU tensors, one row after the other: what `guard.device_kernels` must do.

The same functions with the same arguments. It is what runs where the logits are on the CPU,
and the plain form that the GPU kernels are tested against.
"""

from __future__ import annotations

from guard.device_follow import follow
from guard.device_forbid import forbid
from guard.device_penalties import penalise
from guard.device_settle import settle
from guard.device_veto import veto

__all__ = ["follow", "forbid", "penalise", "settle", "veto"]
