"""Every error has a place in the table and OpenAI's shape on the wire."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

from server.error_table import ERROR_TABLE, reply_to

MODULES = [
    importlib.import_module(f"{package}.errors") for package in ("server", "guard", "detectors")
]


def _errors(module: ModuleType) -> list[type[Exception]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__ == module.__name__
    ]


ALL = [error for module in MODULES for error in _errors(module)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_in_the_table(error: type[Exception]) -> None:
    """Every error class has a status and an OpenAI code of its own choosing."""
    row = ERROR_TABLE[error]

    assert 400 <= row.status < 600
    assert row.code.replace("_", "").isalpha()
    faults = ("invalid_request_error", "authentication_error", "permission_error")
    # Which limit was reached is OpenAI's type of a 429.
    client_types = ("requests", "tokens") if row.status == 429 else faults
    assert (row.status < 500) == (row.type in client_types)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_reply_has_the_shape(error: type[Exception]) -> None:
    """Whatever goes wrong, the client reads OpenAI's four keys."""
    body = reply_to(error("something")).body

    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert all(body["error"][key] for key in ("message", "type", "code"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_trees_are_drawn(module: ModuleType) -> None:
    """Each package has one base, and the module's docstring draws every class."""
    errors = _errors(module)
    bases = [error for error in errors if error.__base__ is Exception]

    assert len(bases) == 1
    assert all(error.__name__ in (module.__doc__ or "") for error in errors)
