"""The parsers' properties under atheris, which changes inputs by what code they reach.

`python tests/server/coverage_guided.py PROPERTY [libFuzzer's flags, as -runs=100000]`, by an
interpreter that has atheris beside this project's packages; no test runs it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from hypothesis import given, settings

CHECKOUT = Path(__file__).resolve().parents[2]
# Not tracing: numba compiles none of what is instrumented.
READ = ("server", "guard", "detectors", "json")


def main(name: str) -> None:
    """Fuzz one property until libFuzzer's flags say that it is enough."""
    sys.path.insert(0, str(CHECKOUT))
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(READ)):
        properties = importlib.import_module("tests.server.parser_properties").PROPERTIES
    function, strategies = properties[name]
    held = settings(database=None, deadline=None)(given(*strategies)(function))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], held.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])
