"""The shape of the gateway's errors."""

from __future__ import annotations

from typing import Any


def error_of(response: Any) -> tuple[int, str]:
    """Status and code of an error, which has OpenAI's fields and no other."""
    error = response.json()["error"]

    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"]
