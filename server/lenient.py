"""Numbers in a client's body, read as leniently as the engine reads them: 2.0 and "2" are 2.

Were they read more strictly here, the engine would give answers that nobody here reckons with.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

_INTEGER = TypeAdapter(int)


def integer(value: Any) -> int | None:
    """The integer that the engine takes a value for; None where it refuses it."""
    if type(value) is int:
        return value
    try:
        return _INTEGER.validate_python(value)
    except ValidationError:
        return None
