"""Every setting is documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.settings import Settings
from server.settings_table import settings_table

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_has_the_table() -> None:
    """The README's table of settings is the one that the code renders."""
    assert settings_table() in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    """Every setting says what it means."""
    description = Settings.model_fields[name].description

    assert description
    assert description.endswith(".")
