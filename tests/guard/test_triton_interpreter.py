"""The GPU kernels in Triton's interpreter, which needs no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guard.device_engine import INTERPRETED

FILES = (
    "test_device_filter.py",
    "test_device_slots.py",
    "test_device_kernels.py",
    "test_device_veto.py",
)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_the_gpu_kernels_do_the_same():
    """All tests of these files that run a kernel."""
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [str(Path(__file__).with_name(name)) for name in FILES]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
