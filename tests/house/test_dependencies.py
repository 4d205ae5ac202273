"""What the code imports is what pyproject.toml declares, and what may change without notice has a ceiling."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.source_tree import ROOT, files

OURS = frozenset({"shop", "loadtests"})
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Packages of which the shop uses private or undocumented parts.
BEYOND_THE_DOCUMENTS = ("arq", "fastapi", "httptools", "prometheus-client", "redis", "starlette", "uvicorn")

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES: list[str] = PYPROJECT["project"]["dependencies"]
LOAD: list[str] = PYPROJECT["dependency-groups"]["load"]


def normalized(name: str) -> str:
    """The one form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: Iterable[str]) -> dict[str, str]:
    """What these requirements say of each package, by its name."""
    found = {}
    for requirement in requirements:
        name = NAME.match(requirement)
        assert name, requirement
        found[normalized(name[0])] = requirement[name.end() :]
    return found


def imported_modules(file: Path) -> set[str]:
    """The packages that a file imports anywhere in it, but for Python's own."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folder", "requirements"),
    [("shop", DEPENDENCIES), ("migrations", DEPENDENCIES), ("loadtests", [*DEPENDENCIES, *LOAD])],
    ids=["shop", "migrations", "loadtests"],
)
def test_every_package_that_is_imported_is_declared(folder: str, requirements: list[str]) -> None:
    """One that comes along with another is gone, or of any version, as soon as that other one no longer wants it."""
    packages, names = packages_distributions(), declared(requirements).keys()
    undeclared = {
        f"{file.relative_to(ROOT)}: {module}"
        for file in files(folder)
        for module in imported_modules(file) - OURS
        if not {normalized(name) for name in packages.get(module, [module])} & names
    }

    assert undeclared == set()


@pytest.mark.parametrize("name", BEYOND_THE_DOCUMENTS)
def test_a_package_that_is_used_beyond_its_documents_has_a_ceiling(name: str) -> None:
    """pip reads no lock file: whoever installs the shop later would get a version that no test has seen."""
    assert re.search(r"<\d", declared(DEPENDENCIES)[name])
