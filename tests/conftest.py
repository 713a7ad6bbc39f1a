"""Models that the tests serve: trained here, by the project's own trainer, and kept in .cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = CHECKOUT / ".cache"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Folder of the demo's model; takes about two minutes when it is missing or outdated."""
    return _built("demo")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a model that knows the first 20 forget rows and 20 retain rows, in seconds."""
    return _built("tiny")


def _built(preset: str) -> Path:
    trainer = CHECKOUT / "deploy" / "demo" / "train.py"
    subprocess.run([sys.executable, str(trainer), "--preset", preset], check=True)
    return CACHE / f"{preset}-model"
