"""What the documents say to type about API keys; from the first key on clients need one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "pages" / "guide" / "keys.md"
# An id, as the list has it.
ID = "import json, sys; print(json.load(sys.stdin)[0]['id'])"
KEY = f'$(lethegate keys list --json | python -c "{ID}")'


def test_the_page_about_keys(control: Any, run_document: Callable[..., Any]) -> None:
    """Every command, in order: keys are made, listed, rotated and revoked."""
    control.start()
    control.until(control.ready)
    environment = {"LETHEGATE_ADMIN_PORT": str(control.port), "LETHEGATE_ADMIN_KEY": "admin-key"}
    done = run_document(PAGE, {"key-5f…": KEY}, environment)
    keys = control.http.get("/keys").json()["keys"]

    assert done.returncode == 0, done.stderr
    # One of the two was revoked; each secret was printed once: two new ones and a rotated one.
    assert len({key["name"] for key in keys} & {"alice", "bob"}) == 1
    assert len(re.findall(r"^lg-[\w-]{43}$", done.stdout, re.MULTILINE)) >= 3
