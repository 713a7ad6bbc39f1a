"""The bill of materials: complete, always the same, and honest about licences."""

from __future__ import annotations

import json
import subprocess
import sys
from email.message import Message
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.scripts import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "inventory.py"


@pytest.fixture(scope="module")
def inventory():
    yield load_script(SCRIPT)
    del sys.modules["inventory"]


def stating(*fields):
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    return SimpleNamespace(metadata=metadata)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT License"),
        ([("Classifier", "License :: OSI Approved"), ("License", "BSD")], "BSD"),
        ([("Classifier", "License :: A"), ("Classifier", "License :: B")], "A AND B"),
        ([("License", "Copyright, and then " + "the whole text " * 20)], "not stated"),
        ([("License", "UNKNOWN")], "not stated"),
        ([], "not stated"),
    ],
)
def test_a_licence_is_what_the_package_states(inventory, fields, expected):
    """Expression before classifiers before free text; nothing is guessed."""
    assert inventory.licence(stating(*fields)) == expected


def test_the_bill_lists_what_is_installed():
    """Name, version and address of each package, in a stable order; Lethegate is the subject."""
    command = [sys.executable, "-W", "error", str(SCRIPT)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in "ab"
    )
    bill = json.loads(first)
    parts = {part["name"]: part for part in bill["components"]}

    assert first == second
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["name"] == "lethegate"
    assert "lethegate" not in parts
    assert parts["numpy"]["version"] == version("numpy")
    assert parts["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert parts["pydantic"]["licenses"] == [{"license": {"name": "MIT"}}]
