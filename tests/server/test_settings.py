"""What the settings' own file knows of addresses, and the table that documents them all."""

from __future__ import annotations

import pytest

from server.settings import Settings, is_loopback
from server.settings_table import settings_table


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    """Only loopback addresses and localhost count as reachable from this machine alone."""
    assert is_loopback(host) is expected


def test_table_has_every_setting() -> None:
    """The rendered table has a row for every setting."""
    table = settings_table()

    assert all(f"`LETHEGATE_{name.upper()}`" in table for name in Settings.model_fields)
