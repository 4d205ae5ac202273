"""docs/invariants.md is the list of invariants: whoever cites a number finds it there, and what it names is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.all_mutants import MUTANTS
from tests.source_tree import ROOT, all_tests

PAGE = ROOT / "docs" / "invariants.md"
CITING = ("shop", "tests", "loadtests", "lua", "docs")
SUFFIXES = frozenset({".py", ".lua", ".md"})
NUMBER, NAMED = re.compile(r"\bI[1-9]\d*\b"), re.compile(r"`([^`\s]+)`")
FILE = re.compile(r"(?:shop|tests|loadtests|lua|docs)/[\w/.]*(?:::(\w+))?")
INVARIANTS = 12


def rows() -> dict[str, list[str]]:
    """The cells of each row, by the number of its invariant."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| I")]
    return {number: cells for number, *cells in lines}


def citing() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder in CITING:
        yield from (file for file in (ROOT / folder).rglob("*") if file.suffix in SUFFIXES and file != PAGE)


def defines(file: Path, name: str) -> bool:
    tree = ast.parse(file.read_text())
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in tree.body)


def is_there(name: str) -> bool:
    """Whether this file, this function of a file (`file::function`), this test or this mutant exists."""
    if FILE.fullmatch(name):
        path, _, function = name.partition("::")
        return (ROOT / path).exists() and (not function or defines(ROOT / path, function))
    return name in all_tests() or name in {mutant.name for mutant in MUTANTS}


def test_every_invariant_that_is_cited_is_defined() -> None:
    undefined = {
        (str(file.relative_to(ROOT)), number)
        for file in citing()
        for number in set(NUMBER.findall(file.read_text())) - rows().keys()
    }

    assert list(rows()) == [f"I{n}" for n in range(1, INVARIANTS + 1)]
    assert undefined == set()


def test_every_file_and_function_that_the_page_names_is_there() -> None:
    named = {name for name in NAMED.findall(PAGE.read_text()) if FILE.fullmatch(name)}

    assert len(named) >= INVARIANTS
    assert {name for name in named if not is_there(name)} == set()


def test_every_test_that_the_page_names_is_there() -> None:
    named = {name for name in NAMED.findall(PAGE.read_text()) if name.startswith("test_")}

    assert named - all_tests() == set()


def test_every_invariant_is_computed_and_broken_on_purpose() -> None:
    """The third cell names what computes it, and the last one nothing but tests and mutants."""
    for number, (_, computed, broken) in rows().items():
        assert any(is_there(name) for name in NAMED.findall(computed)), number
        assert NAMED.findall(broken), number
        assert {name for name in NAMED.findall(broken) if not is_there(name)} == set(), number
