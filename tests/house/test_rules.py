"""The rules of the house that a test can read: who commits, who asks the clock, what things are called."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from shop.settings import Settings
from tests.source_tree import ROOT, files, named

LINES_MAX = 300
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "misc"})
MIGRATION = re.compile(r"20\d\d_[01]\d_[0-3]\d_[a-z0-9]+(_[a-z0-9]+)*")
# What reads the clock of the process, which decides about no order.
CLOCKS = frozenset({"time.time", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"})


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the last two parts of the name that is called."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ".".join(ast.unparse(node.func).split(".")[-2:]), node


def callers(name: str, *folders: str) -> set[str]:
    """The files that call a function or a method of this name."""
    return {named(file) for file in files(*folders) for called, _ in calls(file) if called.split(".")[-1] == name}


def imported(file: Path) -> set[str]:
    """The full names of what a file imports from elsewhere."""
    return {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_only_the_database_module_commits() -> None:
    """One request, one batch or one job is one transaction, and nobody ends it halfway."""
    assert callers("commit", "shop", "loadtests") == {"shop/database.py"}


def test_nobody_writes_a_middleware_that_costs_every_request() -> None:
    """F38: they also cancel a handler when its client leaves; the middleware of this shop is pure ASGI."""
    assert not [named(file) for file in files("shop") if "BaseHTTPMiddleware" in file.read_text()]
    assert not callers("middleware", "shop")


def test_queries_are_written_in_repositories() -> None:
    queries = {f"sqlalchemy.{verb}" for verb in ("select", "insert", "update", "delete")}

    assert {file.name for file in files("shop") if imported(file) & queries} == {"repository.py"}


def test_routers_are_typed_and_their_routes_written_out() -> None:
    """What the application holds is read by typed keys, and a route is found by the decorator above its function."""
    loose = {
        named(file)
        for file in files("shop")
        if file.name.endswith("router.py")
        and ("typing.Any" in imported(file) or "app.state" in file.read_text() or "getattr(" in file.read_text())
    }

    assert loose == set()
    assert callers("add_api_route", "shop") == set()


def test_relationships_do_not_load_lazily_because_there_are_none() -> None:
    assert not [named(file) for file in files("shop") if "sqlalchemy.orm.relationship" in imported(file)]


@pytest.mark.parametrize("folder", ["shop", "loadtests", "tests", "migrations"])
def test_no_module_has_a_name_that_says_nothing(folder: str) -> None:
    parts = {part for file in files(folder) for part in file.relative_to(ROOT).with_suffix("").parts}

    assert not parts & VAGUE_NAMES


@pytest.mark.parametrize("folder", ["shop", "loadtests", "tests", "migrations"])
def test_every_module_says_what_it_owns(folder: str) -> None:
    silent = [named(file) for file in files(folder) if file.stat().st_size and not _docstring(file)]

    assert silent == []


def _docstring(file: Path) -> str | None:
    return ast.get_docstring(ast.parse(file.read_text()))


def test_what_tests_share_is_no_test_module() -> None:
    """It has a module with a name of its own, in the folder that it is about."""
    shared = {
        f"{named(file)}: {name}"
        for file in files("tests")
        for name in imported(file)
        if re.match(r"tests\.(\w+\.)*test_", name)
    }

    assert shared == set()


def test_no_file_of_the_shop_holds_two_things() -> None:
    long = {named(file): lines for file in files("shop") if (lines := len(file.read_text().splitlines())) > LINES_MAX}

    assert long == {}


def test_only_what_people_run_prints() -> None:
    """Everything else says what it has to say in the log, where it is one line of JSON."""
    printing = {file for file in callers("print", "shop") if not file.startswith("shop/cli/")}

    assert printing <= {"shop/demo/run.py", "shop/embedded/launch.py"}


def test_no_clock_of_a_process_decides_about_an_order() -> None:
    """Expiry is Postgres time; the quarantine dates its evidence with the worker's clock, and nothing depends on it."""
    found = {(named(file), called) for file in files("shop/orders") for called, _ in calls(file) if called in CLOCKS}

    assert found == {("shop/orders/poison.py", "datetime.now")}


def test_no_hold_is_compared_with_a_time_outside_of_the_database() -> None:
    """A comparison with `expires_at` is part of a query, and the time that it is compared with is Postgres's now()."""
    compared = {
        (named(file), ast.unparse(node))
        for file in files("shop")
        for node in ast.walk(ast.parse(file.read_text()))
        if _compares_hold(node)
    }

    assert compared == {
        ("shop/orders/repository.py", "Order.expires_at <= func.now()"),
        ("shop/notifications/collecting/repository.py", "Order.expires_at > func.now()"),
        ("shop/notifications/collecting/repository.py", "Order.expires_at <= func.now() + notice"),
        ("shop/notifications/delivering/repository.py", "Order.expires_at <= func.now()"),
    }


def _compares_hold(node: ast.AST) -> bool:
    """Whether this compares some order's `expires_at`; a token that is `known` has one too, of the process's clock."""
    if not isinstance(node, ast.Compare):
        return False
    attributes = [part for part in (node.left, *node.comparators) if isinstance(part, ast.Attribute)]
    return any(part.attr == "expires_at" and ast.unparse(part.value) != "known" for part in attributes)


def test_only_the_limiter_lets_redis_forget_by_itself_on_the_purchase_path() -> None:
    """No TTL decides about stock, holds or limits of a sale."""
    expiring = re.compile(r"\b(EXPIRE|PEXPIRE|EXPIREAT|SETEX|PSETEX|'PX'|'EX')\b|\.p?expire(at)?\(|\.p?setex\(")
    ledger = [*files("shop/seckill", "shop/sales", "shop/orders"), *(ROOT / "lua").glob("*.lua")]

    assert {named(file) for file in ledger if expiring.search(file.read_text())} <= {"lua/rate_limit.lua"}


def test_migrations_are_named_by_date_and_purpose_and_can_go_down() -> None:
    """The revision is the file's name, so a date in the database says what it has; `downgrade` does something."""
    for file in files("migrations/versions"):
        tree = ast.parse(file.read_text())
        values = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert MIGRATION.fullmatch(file.stem), file.stem
        assert values["revision"] == file.stem
        assert values["down_revision"] is None or values["down_revision"] < file.stem
        for name in ("upgrade", "downgrade"):
            assert "op." in ast.unparse(functions[name]), f"{file.name} has no {name}"


def test_the_first_migration_is_the_only_one_without_a_predecessor() -> None:
    firsts = [file.stem for file in files("migrations/versions") if "down_revision = None" in file.read_text()]

    assert firsts == [min(file.stem for file in files("migrations/versions"))]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_configuration_table(name: str) -> None:
    pages = (ROOT / "README.md").read_text() + (ROOT / "docs" / "configuration.md").read_text()

    assert f"`SHOP_{name.upper()}`" in pages


def test_later_stages_use_earlier_ones_and_the_hot_path_never_waits_for_postgres() -> None:
    """The contracts of import-linter in pyproject.toml."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0
