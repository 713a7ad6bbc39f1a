"""The README's table of settings; a test compares the two."""

from __future__ import annotations

from typing import Any

from server.settings import ENV_PREFIX, SECRETS, Settings


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    rows = ["| setting | environment | default | meaning |", "|---|---|---|---|"]
    for name, info in Settings.model_fields.items():
        default = "`~/.local/state/lethegate`" if name == "state_dir" else _shown(info.default)
        flag = name if name in SECRETS else f"`--{name.replace('_', '-')}`"
        rows.append(f"| {flag} | `{ENV_PREFIX}{name.upper()}` | {default} | {info.description} |")
    return "\n".join(rows) + "\n"


def _shown(default: Any) -> str:
    if default in (None, ()):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
