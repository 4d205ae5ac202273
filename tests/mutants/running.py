"""Run tests in a copy of the tree, with the copy's own code, and tell what became of each."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.mutants.interpreter import interpreter

# Longer than a condition of a test is waited for on a slow machine: a mutant is what makes it never come true.
TEST_SECONDS_MAX = 180
ALL_GREEN, SOME_RED = 0, 1  # what pytest ends with
TIMED_OUT = "Failed: Timeout"  # how pytest-timeout begins its message
TAIL_LINES = 3
# Those that the tests need and no others: importing all that are installed takes as long as most tests.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "xdist.plugin", "-p", "no:cacheprovider")


class Outcome(StrEnum):
    """What became of one test. `ERROR` is a fixture that failed: it says nothing about the rule of the test."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Ran:
    """A run of pytest: its status, each test's outcome by its id, and the last lines that it said."""

    status: int
    outcomes: Mapping[str, Outcome]
    tail: str
    seconds: float

    def first(self, outcome: Outcome) -> str | None:
        """The first test with this outcome."""
        return next((test for test, had in self.outcomes.items() if had is outcome), None)


def run_tests(root: Path, tests: Sequence[str], *options: str, seconds_max: float) -> Ran:
    """Run these files or ids of the tree `root`, whose `shop`, `lua` and `migrations` are the ones in use."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="shop-mutant-report-") as directory:
        report = Path(directory) / "report.xml"
        output = Path(directory) / "output.txt"
        arguments = [
            *PLUGINS, "-q", "--tb=short", f"--rootdir={root}", f"--timeout={TEST_SECONDS_MAX}", f"--junitxml={report}",
            "-o", "junit_family=xunit1", *options, *tests,
        ]  # fmt: skip
        status = interpreter().run(root, _environment(root), arguments, output, seconds=seconds_max)
        said = output.read_text(errors="replace") if output.exists() else ""
        tail = "\n".join(said.strip().splitlines()[-TAIL_LINES:])
        return Ran(status, _outcomes(report), tail, time.monotonic() - began)


def _environment(root: Path) -> dict[str, str]:
    """The copy's code comes first, also for the processes that its tests start; no setting of the caller counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOP_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _outcomes(report: Path) -> dict[str, Outcome]:
    if not report.exists():
        return {}
    found: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own pytest has just written it
        file, name = case.get("file"), case.get("name")
        if file is None:
            continue  # a file that could not be collected; the status tells
        test, outcome = f"{file}::{name}", _outcome(case)
        if outcome is not Outcome.PASSED or test not in found:
            found.setdefault(test, outcome)
    return found


def _outcome(case: ElementTree.Element) -> Outcome:
    failure = case.find("failure")
    if failure is not None:
        return Outcome.TIMEOUT if (failure.get("message") or "").startswith(TIMED_OUT) else Outcome.FAILED
    if case.find("error") is not None:
        return Outcome.ERROR
    return Outcome.PASSED if case.find("skipped") is None else Outcome.SKIPPED


def belongs(test: str, selection: str) -> bool:
    """Whether a test is what this file, folder or id of pytest selects, or part of it."""
    return test == selection or test.startswith((f"{selection}::", f"{selection}[", f"{selection}/"))
