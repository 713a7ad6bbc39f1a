"""Empty and filled places of a backup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.database import Database
from server.settings import Settings
from server.state_dir import own_directory
from tests.server.control.backup.places import fill


@pytest.fixture
def place(tmp_path: Path, empty_url: Callable[[str], str]) -> Callable[..., Settings]:
    """Makes settings of an empty state directory with an empty store of a kind."""

    def make(name: str, kind: str) -> Settings:
        state_dir = tmp_path / name
        own_directory(state_dir)
        url = empty_url(kind) if kind == "postgresql" else None
        return Settings.model_validate({"state_dir": state_dir, "database_url": url})

    return make


@pytest.fixture
def filled(place: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    """A place with targets, jobs, keys, corpora and assistants."""
    settings = place("from", getattr(request, "param", "sqlite"))
    database = Database(settings.store_url)
    fill(settings, database)
    database.close()
    return settings
