"""The documents name tests and files; each of those is there, and no row is without one or a word about why."""

import re
import subprocess
from functools import lru_cache

import pytest

from shop.ledger.keys import LedgerKeys
from tests.source_tree import ROOT, all_tests, files

PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (
        *ROOT.glob("*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "loadtests").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    )
    if "node_modules" not in page.parts
)
# What a page says of the past may name files that are gone.
OF_NOW = [page for page in PAGES if page != "CHANGELOG.md"]
FILE = re.compile(r"(?<![\w/.-])(?:deploy|docs|loadtests|lua|migrations|shop|tests)/[\w./-]*[\w/]")
LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
NAME = re.compile(r"\btest_[a-z0-9_]+\b(?!\.py)")
FAILURES = 47
FAULTS = 33
RISKS = 10
FOUND = 59
# What a row without a test must begin with.
WHY = re.compile(r"open: \S")


@lru_cache
def modules() -> frozenset[str]:
    """The name of every file of tests, which a page may name without its ending."""
    return frozenset(file.stem for file in files("tests"))


def rows(page: str, first: str) -> list[tuple[str, str]]:
    """The rows whose first cell begins like this: that cell and the last one."""
    lines = (ROOT / page).read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith(f"| {first}")
    ]
    return [(each[0], each[-1]) for each in cells]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_document_names_is_there(page: str) -> None:
    named = set(NAME.findall((ROOT / page).read_text()))

    assert named or page not in {"README.md", "tests/README.md", "docs/invariants.md"}
    assert named - all_tests() - modules() == set()


@pytest.mark.parametrize("page", OF_NOW)
def test_every_file_that_a_document_names_is_there(page: str) -> None:
    """By its path from the top, or by a link from the page."""
    text = (ROOT / page).read_text()
    linked = {link for link in LINK.findall(text) if "://" not in link}

    assert {name for name in FILE.findall(text) if not (ROOT / name).exists()} == set()
    assert {link for link in linked if not ((ROOT / page).parent / link).exists()} == set()


def test_the_architecture_names_every_table_and_every_part_of_a_ledger() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tables = {table for file in files("shop") for table in re.findall(r'__tablename__ = "(\w+)"', file.read_text())}

    assert len(tables) >= 29
    assert {table for table in tables if f"`{table}`" not in page} == set()
    assert {part for part in LedgerKeys._fields if f"`shop:{{<sale>.<epoch>}}:{part}`" not in page} == set()


def test_the_table_of_the_tests_names_every_folder_of_tests() -> None:
    """And a test that is in no folder is the one that is read first."""
    named = [cell.strip("`/") for cell, _ in rows("tests/README.md", "`")]

    assert sorted(named) == sorted(
        {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").glob("*/*.py")}
    )
    assert [file.name for file in (ROOT / "tests").glob("test_*.py")] == ["test_story.py"]


def test_every_published_failure_has_its_row_and_its_tests_or_is_open() -> None:
    found = rows("tests/README.md", "F")

    assert [number for number, _ in found] == [f"F{n}" for n in range(1, FAILURES + 1)]
    assert [number for number, proof in found if not NAME.search(proof) and not WHY.match(proof)] == []


def test_every_fault_has_its_row_and_its_tests() -> None:
    found = rows("tests/README.md", "fault ")

    assert [number for number, _ in found] == [f"fault {n}" for n in range(1, FAULTS + 1)]
    assert [number for number, proof in found if not NAME.search(proof)] == []


def test_everything_that_strangers_found_has_its_row_and_its_tests_or_is_open() -> None:
    found = rows("tests/README.md", "found ")

    assert [number for number, _ in found] == [f"found {n}" for n in range(1, FOUND + 1)]
    assert [number for number, proof in found if not NAME.search(proof) and not WHY.match(proof)] == []


def test_every_risk_of_owasp_has_its_row_and_its_tests() -> None:
    found = rows("README.md", "API")

    assert [risk.split()[0] for risk, _ in found] == [f"API{n}" for n in range(1, RISKS + 1)]
    assert [risk for risk, proof in found if not NAME.search(proof) and not WHY.match(proof)] == []


def test_the_documents_call_no_program_that_a_fresh_clone_has_not() -> None:
    """`uv` is found or made by make alone, and whatever else is called through it has a target."""
    named = ("README.md", "tests/README.md", "loadtests/README.md")
    for page in (*named, *(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            assert not re.search(r"^\s*(\w+=\S+ )*(uv|uvx|pip|locust|pytest|docker)\b", block, re.MULTILINE), page
    made = subprocess.run(["make", "-n", "locust"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    assert "locust -f loadtests/crowd/locustfile.py" in made.stdout
