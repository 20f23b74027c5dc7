"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every test function, with the place where it stands."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(TESTS)}:{node.lineno} {node.name}", node


def test_every_test_states_its_promise() -> None:
    """Each test says in its docstring what is promised."""
    silent = [place for place, function in functions() if not ast.get_docstring(function)]

    assert not silent
