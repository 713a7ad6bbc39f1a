"""The device kernels on a GPU, in Triton, as `guard.device_reference` states them.

No argument changes what is compiled from one step to the next: numbers are not specialised.
"""

from __future__ import annotations

from guard.triton_follow import follow
from guard.triton_forbid import forbid
from guard.triton_penalties import penalise
from guard.triton_settle import settle
from guard.triton_veto import veto

__all__ = ["follow", "forbid", "penalise", "settle", "veto"]
