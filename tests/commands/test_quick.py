"""What says only what there is to call, waits for nothing that a command needs to run."""

import io
import os
import re
import statistics
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import typer
import typer.rich_utils

from shop.cli import app
from shop.cli.commands import COMMANDS, Commands
from shop.cli.overview import print_overview

CPU_RATIO_MAX = 2.0
ROUNDS = 7
TYPER = (sys.executable, "-c", "import typer")
SHOP = (sys.executable, "-c", "import sys; sys.argv[0] = 'shop'; from shop.cli import main; main()")
BASH = {"_SHOP_COMPLETE": "complete_bash", "COMP_WORDS": "shop s", "COMP_CWORD": "1"}
ZSH = {"_SHOP_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "shop s"}
QUICK = {
    "help": (("--help",), {}),
    "nothing": ((), {}),
    "version": (("--version",), {}),
    "bash": ((), BASH),
    "zsh": ((), ZSH),
}
IMPORTED = re.compile(r"^import time:[^|]+\|[^|]+\| +(\S+)$", re.MULTILINE)
OF_THE_SHOP = {
    "shop",
    *(f"shop.cli.{name}" for name in ("commands", "overview", "output", "usage")),
    "shop.cli",
    "shop.terminal",
}
HEAVY = {
    "alembic", "arq", "asyncpg", "attr", "babel", "fastapi", "httpx", "jwt", "markdown_it", "prometheus_client",
    "pydantic", "pygments", "redis", "sqlalchemy", "starlette", "structlog", "uvicorn",
}  # fmt: skip


def group() -> Commands:
    """The command of the shop, as it is run."""
    made = typer.main.get_command(app)
    assert isinstance(made, Commands)
    return made


@pytest.mark.parametrize("case", QUICK)
def test_what_only_says_what_there_is_imports_nothing_of_what_runs(case: str) -> None:
    """Neither the shop nor a package that is known to be heavy; so it stays quick, whatever the shop grows to be."""
    words, variables = QUICK[case]
    said = subprocess.run(
        [sys.executable, "-X", "importtime", *SHOP[1:], *words],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    imported = set(IMPORTED.findall(said.stderr))

    assert said.stdout, said
    assert "typer" in imported, said
    assert {each for each in imported if each.partition(".")[0] in HEAVY} == set()
    assert {each for each in imported if each.partition(".")[0] == "shop"} <= OF_THE_SHOP


@pytest.mark.parametrize("case", QUICK)
def test_what_only_says_what_there_is_takes_at_most_twice_the_cpu_of_typer(case: str, tmp_path: Path) -> None:
    """Beside `import typer`, in turns: a machine that others use makes both slower."""
    words, variables = QUICK[case]
    # Bytecode as an installation has it, whatever this run has been told about it.
    common = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    common["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    calls = [(TYPER, common), ((*SHOP, *words), {**common, **variables})]
    for call in calls:
        cpu_seconds(*call)

    typers, shops = zip(*([cpu_seconds(*call) for call in calls] for _ in range(ROUNDS)), strict=True)

    assert statistics.median(shops) <= CPU_RATIO_MAX * statistics.median(typers), (shops, typers)


def cpu_seconds(call: tuple[str, ...], variables: dict[str, str]) -> float:
    """What a process has used of a CPU, from its start to its end."""
    process = subprocess.Popen(call, env=variables, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def test_the_first_help_is_what_typer_would_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letter by letter, in every width, on a terminal and elsewhere."""
    shop = group()
    for width in ("40", "60", "80", "130", "200"):
        for on_a_terminal in (False, True):
            monkeypatch.setenv("COLUMNS", width)
            monkeypatch.setenv("FORCE_COLOR", "1" if on_a_terminal else "")
            monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", on_a_terminal or None)
            monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", None)
            ours, theirs = io.StringIO(), io.StringIO()
            with shop.make_context("shop", [], resilient_parsing=True) as context:
                with redirect_stdout(ours):
                    print_overview(shop, context)
                with redirect_stdout(theirs):
                    typer.rich_utils.rich_format_help(obj=shop, ctx=context, markup_mode="markdown")

            assert ours.getvalue() == theirs.getvalue(), (width, on_a_terminal)
            assert ("\x1b[" in ours.getvalue()) == on_a_terminal


def test_a_commands_line_is_the_beginning_of_its_own_help() -> None:
    """The line is known before the command is; this is what keeps the two the same."""
    shop = group()
    for name, (_, line) in COMMANDS.items():
        command = shop.load(name)

        assert (command.name, (command.help or "").partition("\n\n")[0]) == (name, line)


def test_the_version_is_that_of_the_package() -> None:
    """As `pip` knows it."""
    from importlib.metadata import version

    said = subprocess.run([*SHOP, "--version"], capture_output=True, text=True, timeout=60, check=False)

    assert (said.returncode, said.stdout, said.stderr) == (0, f"shop {version('shop')}\n", "")


@pytest.mark.parametrize("variables", [BASH, ZSH], ids=["bash", "zsh"])
def test_a_shell_completes_the_names_of_commands(variables: dict[str, str]) -> None:
    """After `eval "$(_SHOP_COMPLETE=source_bash shop)"`, or that of another shell."""
    said = subprocess.run(
        SHOP, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
    )

    assert re.findall(r"[\w-]+", said.stdout)[-3:] == ["settings", "sandbox-provider", "sale"]
