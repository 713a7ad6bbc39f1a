"""Where settings come from, and how bad ones stop the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import SettingsError
from server.settings import Settings
from server.settings_sources import load_settings


def test_precedence(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\nadmin_port: 2\nalpha: 0.1\n")
    env = {"LETHEGATE_CONFIG": str(file), "LETHEGATE_PORT": "3", "LETHEGATE_ADMIN_PORT": "4"}

    found = load_settings({"port": "5", "host": None}, env=env)

    assert (found.port, found.admin_port, found.alpha, found.host) == (5, 4, 0.1, "127.0.0.1")


@pytest.mark.parametrize(
    ("flags", "env", "yaml", "parts"),
    [
        ({}, {"LETHEGATE_PORT": "abc"}, "", ["LETHEGATE_PORT", "'abc'"]),
        ({"port": "70000"}, {}, "", ["--port", "'70000'"]),
        ({}, {"LETHEGATE_PROT": "1"}, "", ["LETHEGATE_PROT", "not a setting"]),
        ({}, {}, "prot: 1", ["prot in", "not a setting"]),
        ({}, {}, "fail_open: perhaps", ["fail_open", "'perhaps'"]),
        ({}, {}, "[1, 2]", ["must map"]),
        ({}, {}, "a: [", ["not YAML"]),
        ({}, {"LETHEGATE_REFUSAL_MODE": "shout"}, "", ["LETHEGATE_REFUSAL_MODE", "'shout'"]),
    ],
)
def test_bad_values_stop_the_start(
    tmp_path: Path, flags: dict[str, str], env: dict[str, str], yaml: str, parts: list[str]
) -> None:
    """An unknown name or a value that cannot be parsed is an error with key and value."""
    file = tmp_path / "settings.yaml"
    file.write_text(yaml)

    with pytest.raises(SettingsError) as caught:
        load_settings(flags, env=env, config=file)

    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("key", ["admin_key", "api_keys", "auditor_keys", "database_url"])
def test_secrets_stay_out_of_errors_and_repr(tmp_path: Path, key: str) -> None:
    """Neither a repr nor the error about a bad value shows a secret."""
    file = tmp_path / "settings.yaml"
    file.write_text(f"{key}: {{sesame: opensesame}}\n")
    good = load_settings(env={f"LETHEGATE_{key.upper()}": "opensesame"})

    with pytest.raises(SettingsError) as caught:
        load_settings(env={}, config=file)

    assert "sesame" not in str(caught.value)
    assert "opensesame" not in repr(good)
    assert "opensesame" not in str(good.model_dump())


def test_missing_file() -> None:
    """A settings file that cannot be read is an error that names it."""
    with pytest.raises(SettingsError, match=r"/nowhere/x\.yaml"):
        load_settings(env={}, config=Path("/nowhere/x.yaml"))


def test_lists_in_the_environment_are_split_at_commas() -> None:
    """Client keys are separated by commas in the environment; empty means none."""
    found = load_settings(env={"LETHEGATE_API_KEYS": "one, two", "LETHEGATE_HOST": ""})

    assert [key.get_secret_value() for key in found.api_keys] == ["one", "two"]
    assert found.host == "127.0.0.1"


@given(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=20))
def test_any_text_is_a_value_or_a_settings_error(key: str, text: str) -> None:
    """No environment value makes loading fail in another way than SettingsError."""
    problem = ""
    try:
        load_settings(env={f"LETHEGATE_{key.upper()}": text})
    except SettingsError as error:
        problem = str(error)

    assert not problem or key.upper() in problem


def test_the_tests_data_are_no_setting() -> None:
    """Whoever evaluates may serve from the same shell."""
    assert load_settings(env={"LETHEGATE_TEST_DATA": "/data"}) == load_settings(env={})
