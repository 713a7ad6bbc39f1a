"""The commands that a newcomer types, and what they say when something is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def make(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "target", ["setup", "demo", "model", "test", "lint", "docs", "lock", "clean"]
)
def test_help_lists_every_command(target):
    """`make` alone tells what there is."""
    listing = make().stdout

    assert f"make {target} " in listing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("PYTHON=",), "Python 3.11 or newer is needed"),
        (("PYTHON=no-such-python",), "Python 3.11 or newer is needed"),
        (("CXX_FOUND=",), "A C++ compiler is needed"),
        (("ACCELERATOR=tpu",), "ACCELERATOR must be cpu or cuda"),
    ],
)
def test_setup_says_what_is_missing(tmp_path, settings, message):
    """A machine that lacks something is told so before anything is installed."""
    done = make("setup", f"VENV={tmp_path / 'venv'}", *settings)

    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_changed_list_asks_for_another_setup(tmp_path):
    """The stamp is made of what is installed, so it is another one for another accelerator."""
    stamps = {
        make("-n", "setup", f"VENV={tmp_path}", f"ACCELERATOR={each}").stdout.splitlines()[-1]
        for each in ("cpu", "cuda")
    }

    assert len(stamps) == 2
    assert all("/.setup-c" in stamp for stamp in stamps)


def test_ci_runs_what_a_developer_runs():
    """CI has no checks of its own."""
    script = CHECKOUT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
