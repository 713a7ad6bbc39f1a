"""The parsers' properties under atheris, which changes inputs by what code they reach.

`python tests/server/coverage_guided.py PROPERTY [libFuzzer's flags, as -runs=100000]`, by an
interpreter that has atheris beside this project's packages; no test runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
# Not tracing: numba compiles none of what is instrumented.
READ = ("server", "guard", "detectors", "json")


def main(name: str) -> None:
    """Fuzz one property until libFuzzer's flags say that it is enough."""
    sys.path.insert(0, str(HERE.parents[2]))
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(READ)):
        spec = importlib.util.spec_from_file_location(
            "properties", HERE.with_name("test_parsers_fuzzed.py")
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    function, strategies = module.PROPERTIES[name]
    held = module.settings(database=None, deadline=None)(module.given(*strategies)(function))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], held.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])
