"""The files of the repository, and the names of its tests."""

import ast
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


def files(*folders: str) -> list[Path]:
    """The Python files of these folders."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@lru_cache
def all_tests() -> frozenset[str]:
    """The name of every test."""
    return frozenset(
        node.name
        for file in files("tests")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )
