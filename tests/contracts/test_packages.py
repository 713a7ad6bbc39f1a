"""The packages come from here, import in one direction and stay light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("server", "guard", "detectors", "tracing")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_this_project(name: str) -> None:
    """The four plain names import from here, and no other distribution claims them."""
    module = importlib.import_module(name)
    claims = set(packages_distributions().get(name, ["lethegate"]))

    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)
    assert claims == {"lethegate"}


def test_import_contracts() -> None:
    """Imports run server, guard, detectors, tracing; vllm and HTTP stay where they belong."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["server.cli", "server.control", "server.activation"])
def test_light_to_import(name: str) -> None:
    """The command line answers without loading models' libraries, or those of the store."""
    heavy = {"torch", "transformers", "sentence_transformers", "vllm", "numba"}
    if name == "server.cli":
        heavy |= {"numpy", "sqlalchemy", "alembic", "fastapi"}
    code = f"import sys, {name}; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
