"""Keys and roles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.auth import ANONYMOUS, Caller, KeyRing, Role, admin_key, load_keyring
from server.errors import Forbidden, StartFault, Unauthorized
from server.settings import Settings


def test_roles(settings: Settings) -> None:
    """Each key has its role, a higher role includes the lower ones, strangers have none."""
    ring = load_keyring(settings)

    assert ring.identify("Bearer admin-key") == Caller("settings-admin-1", Role.ADMIN)
    assert ring.identify("bearer auditor-key") == Caller("settings-auditor-1", Role.AUDITOR)
    assert ring.identify("Bearer client-key") == Caller("settings-client-1", Role.CLIENT)
    assert ring.require("Bearer admin-key", Role.CLIENT).role is Role.ADMIN


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic admin-key", "admin-key", "Bearer ADMIN-KEY"]
)
def test_strangers(settings: Settings, header: str | None) -> None:
    """No key, an unknown key and another scheme are all a 401."""
    with pytest.raises(Unauthorized):
        load_keyring(settings).require(header, Role.CLIENT)


def test_lower_role_is_forbidden(settings: Settings) -> None:
    """A known key without the right is told so, not taken for a stranger."""
    with pytest.raises(Forbidden):
        load_keyring(settings).require("Bearer client-key", Role.AUDITOR)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_only_loopback_may_go_without_keys(tmp_path: Path, host: str) -> None:
    """Without any client key, clients of loopback need none and all others do."""
    ring = load_keyring(Settings(state_dir=tmp_path, host=host))
    if host == "127.0.0.1":
        assert ring.admit(None) is ring.admit("Bearer whatever") is ANONYMOUS
    else:
        with pytest.raises(Unauthorized):
            ring.admit(None)


def test_keys_are_not_kept() -> None:
    """A keyring holds no key in clear."""
    ring = KeyRing({"sesame": Role.ADMIN})

    assert "sesame" not in repr(ring)
    assert b"sesame" not in repr(vars(ring)).encode()


def test_admin_key_is_made_once_and_owner_only(tmp_path: Path) -> None:
    """Without a setting the first start makes a key that every later caller finds."""
    settings = Settings(state_dir=tmp_path / "state")
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: admin_key(settings), range(8)))

    assert len(keys) == 1
    assert len(keys.pop()) > 40
    assert settings.admin_key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.state_dir.iterdir()] == ["admin.key"]


def test_empty_admin_key_file(tmp_path: Path) -> None:
    """An empty key file is an error, not an empty key."""
    (tmp_path / "admin.key").touch()

    with pytest.raises(StartFault, match="empty"):
        admin_key(Settings(state_dir=tmp_path))
