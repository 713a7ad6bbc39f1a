"""Every test says its claim in a sentence."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_has_a_docstring():
    """No test function and no test file is without one."""
    missing = []
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [tree] + [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
        ]
        missing += [
            f"{path.relative_to(TESTS)}:{getattr(node, 'lineno', 1)}"
            for node in nodes
            if not ast.get_docstring(node)
        ]

    assert [] == missing
