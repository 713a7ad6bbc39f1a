"""Where the settings' values come from.

A value is looked for in the command line's flags, then in the environment (`LETHEGATE_` and the
name in capitals), then in the YAML file named by `--config` or `LETHEGATE_CONFIG`; else the default
holds. Unknown names and values that cannot be parsed stop the start. An empty environment variable
counts as absent; lists are separated by commas there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from server.errors import SettingsError
from server.settings import (
    CONFIG_ENV,
    DATA_ENV,
    ENV_PREFIX,
    INTERNAL_ENV_PREFIX,
    SECRETS,
    Settings,
)

_LISTS = frozenset({"auditor_keys", "api_keys", "node_keys"})


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Settings from flags over environment over file over defaults.

    A flag that is None was not given. `env` is the process's environment unless given.

    Raises:
        SettingsError: naming the key, where it was set and, unless secret, the value.
    """
    environment = os.environ if env is None else env
    file = config or (Path(environment[CONFIG_ENV]) if environment.get(CONFIG_ENV) else None)
    sources: dict[str, tuple[str, Any]] = {}
    if file is not None:
        sources |= {key: (f"{key} in {file}", value) for key, value in _read_file(file).items()}
    sources |= _read_env(environment)
    for key, value in (flags or {}).items():
        if value is not None:
            sources[key] = ("--" + key.replace("_", "-"), value)
    try:
        return Settings.model_validate({key: value for key, (_, value) in sources.items()})
    except ValidationError as error:
        raise SettingsError(_explain(error, sources)) from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The environment from which `load_settings` makes the same settings, for our own children."""
    found: dict[str, str] = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        plain = [_plain(part) for part in value] if name in _LISTS else _plain(value)
        if plain not in ("", []):
            found[f"{ENV_PREFIX}{name.upper()}"] = ",".join(plain) if name in _LISTS else str(plain)
    return found


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _read_env(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for variable, text in environment.items():
        ours = variable.startswith(ENV_PREFIX) and not variable.startswith(INTERNAL_ENV_PREFIX)
        if not ours or variable in (CONFIG_ENV, DATA_ENV) or not text:
            continue
        key = variable.removeprefix(ENV_PREFIX).lower()
        if key not in Settings.model_fields:
            raise SettingsError(f"{variable} is not a setting")
        value: Any = [part.strip() for part in text.split(",")] if key in _LISTS else text
        found[key] = (variable, value)
    return found


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the settings file {file} is not UTF-8") from None
    except yaml.YAMLError as error:
        # The problem's own text may quote a secret, so only the place is told.
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"the settings file {file} is not YAML{place}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"the settings file {file} must map setting names to values")
    return {key: value for key, value in content.items() if value is not None}


def _explain(error: ValidationError, sources: Mapping[str, tuple[str, Any]]) -> str:
    """The first problem as one line: where, what value (unless secret), what is wrong."""
    problem = error.errors(include_url=False, include_context=False)[0]
    key = str(problem["loc"][0])
    place, value = sources.get(key, (key, None))
    if problem["type"] == "extra_forbidden":
        return f"{place} is not a setting"
    shown = "" if key in SECRETS else f"={value!r}"
    return f"{place}{shown}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
