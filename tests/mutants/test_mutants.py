"""The runner of the mutants, on a shop of two lines; and the table, which must fit the code and name tests."""

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.mutants.all_mutants import MUTANTS
from tests.mutants.interpreter import OUT_OF_TIME
from tests.mutants.mutant import Edit, Mutant, Stale, breaks, named_tests, require_fitting
from tests.mutants.running import Outcome, belongs, run_tests
from tests.mutants.verdicts import Judged, Verdict, judge_all
from tests.source_tree import ROOT

# The installed shop has no ANSWER: whoever runs these tests with another code than the copy's finds them red.
FILES = {
    "pyproject.toml": "[tool.pytest.ini_options]\nasyncio_mode = 'auto'\n",
    "shop/__init__.py": "ANSWER = 42\nUNUSED = 1\n",
    "tests/test_answer.py": "import shop\n\n\ndef test_the_answer_is_42():\n    assert shop.ANSWER == 42\n",
    "tests/test_red.py": "def test_this_is_red_without_any_mutant():\n    assert False\n",
    "tests/conftest.py": "import pytest, shop\n\n\n@pytest.fixture\ndef testbed():\n    assert shop.UNUSED == 1\n",
    "tests/test_testbed.py": "def test_the_testbed_is_good(testbed):\n    pass\n",
}
SHOP, ANSWER = "shop/__init__.py", "tests/test_answer.py"
OF_THE_SMALL_SHOP = (
    breaks("trivial", "", SHOP, "42", "43", ANSWER),
    breaks("nothing", "", SHOP, "42", "42", ANSWER),
    breaks("moved", "", SHOP, "41", "43", ANSWER),
    breaks("twice", "", SHOP, " = ", " = -", ANSWER),
    breaks("no_import", "", SHOP, "ANSWER = 42", "raise ImportError", ANSWER),
    breaks("no_testbed", "", SHOP, "UNUSED = 1", "UNUSED = 2", "tests/test_testbed.py"),
    breaks("red_before", "", SHOP, "42", "43", "tests/test_red.py"),
    breaks("no_such_test", "", SHOP, "42", "43", f"{ANSWER}::test_that_is_not_there"),
)
EXPECTED = {
    "trivial": Verdict.KILLED,
    "nothing": Verdict.SURVIVED,
    "moved": Verdict.STALE,
    "twice": Verdict.STALE,
    "no_import": Verdict.ERROR,
    "no_testbed": Verdict.ERROR,
    "red_before": Verdict.BASELINE,
    "no_such_test": Verdict.BASELINE,
}


@pytest.fixture(scope="module")
def small_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with a shop, and tests of it."""
    root = tmp_path_factory.mktemp("small_shop")
    for name, content in FILES.items():
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return root


@pytest.fixture(scope="module")
def judged(small_shop: Path) -> Mapping[str, Judged]:
    """The verdict on each mutant of the small shop."""
    found = judge_all(OF_THE_SMALL_SHOP, small_shop, jobs=1, thorough=False, say=lambda _: None)
    return {each.mutant: each for each in found}


@pytest.mark.parametrize("name", EXPECTED)
def test_only_a_test_that_failed_and_was_green_before_kills(judged: Mapping[str, Judged], name: str) -> None:
    assert (judged[name].verdict, judged[name].detail) == (EXPECTED[name], judged[name].detail)


def test_the_killer_is_named(judged: Mapping[str, Judged]) -> None:
    assert judged["trivial"].test == f"{ANSWER}::test_the_answer_is_42"


@pytest.mark.usefixtures("judged")
def test_the_tree_itself_is_never_touched(small_shop: Path) -> None:
    there = [file for file in small_shop.rglob("*") if file.is_file()]

    assert {str(file.relative_to(small_shop)): file.read_text() for file in there} == FILES


def test_a_run_that_does_not_end_is_ended_and_kills_nothing(small_shop: Path) -> None:
    ran = run_tests(small_shop, [ANSWER], seconds_max=0.01)

    assert (ran.status, ran.first(Outcome.FAILED)) == (OUT_OF_TIME, None)


def test_a_selection_has_its_file_its_cases_and_its_folder_and_no_namesake() -> None:
    assert belongs("tests/a.py::test_x[1]", "tests/a.py::test_x")
    assert belongs("tests/a.py::test_x", "tests/a.py")
    assert belongs("tests/a.py::test_x", "tests")
    assert not belongs("tests/a.py::test_xy", "tests/a.py::test_x")


def test_a_mutant_that_fits_in_one_of_two_places_is_stale(small_shop: Path) -> None:
    half = Mutant("half", "", (Edit(SHOP, "42", "43"), Edit(SHOP, "44", "45")), (ANSWER,))

    with pytest.raises(Stale, match="44"):
        require_fitting(half, small_shop)


def test_every_mutant_has_a_name_of_its_own_and_breaks_something() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)

    assert [name for name, count in names.items() if count > 1] == []
    assert [each.name for each in MUTANTS if not each.tests or any(e.before == e.after for e in each.edits)] == []


def test_every_mutant_fits_the_code_as_it_is() -> None:
    """Whoever changes a passage that a mutant breaks lets the mutant follow."""
    stale = {}
    for mutant in MUTANTS:
        try:
            require_fitting(mutant, ROOT)
        except Stale as reason:
            stale[mutant.name] = str(reason)

    assert stale == {}


def test_every_test_that_a_mutant_names_is_there() -> None:
    missing = []
    for name in named_tests(MUTANTS):
        file, _, test = name.partition("::")
        functions = _functions(ROOT / file) if (ROOT / file).is_file() else set()
        if not functions or (test and test.partition("[")[0] not in functions):
            missing.append(name)

    assert missing == []


def _functions(file: Path) -> set[str]:
    nodes = ast.parse(file.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
