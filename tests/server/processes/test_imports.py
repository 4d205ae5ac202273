"""What the processes of the API import, and what is there already when one is forked."""

import subprocess
import sys

import pytest

LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, *sys.modules)"
# What the parent runs: the command, and the pool.
PARENT = "import shop.cli.failures, shop.cli.servers, shop.app.processes; "
PROCESS = "import shop.app.preloading; "
OF_OTHERS = {"alembic", "arq", "aiosmtplib", "babel", "typer", "shop.worker", "shop.sandbox", "shop.demo", "shop.cli"}


def said(program: str) -> list[str]:
    """The words that a program prints."""
    call = [sys.executable, "-c", program]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout.split()


@pytest.mark.parametrize(
    ("program", "not_needed"),
    [(PARENT, {"fastapi", "starlette", "httpx", "uvicorn", "shop.app.factory", "shop.seckill"}), (PROCESS, OF_OTHERS)],
    ids=["parent", "process"],
)
def test_a_process_imports_nothing_that_only_others_need(program: str, not_needed: set[str]) -> None:
    """The one that keeps the others serves nothing; they neither record nor send, and are no command."""
    loaded = set(said(program + LOADED))

    assert "shop.settings" in loaded
    assert loaded & not_needed == set()


def test_what_all_processes_have_in_common_is_made_before_they_are_forked() -> None:
    """Also what takes as long as all the rest of a process that starts, and what its collector need not look at."""
    program = (
        "import gc; from shop.payments.gateway import authorities; from shop.users.passwords import dummy_hash;"
        "print(authorities.cache_info().currsize, dummy_hash.cache_info().currsize, gc.get_freeze_count() > 0,"
        "gc.isenabled())"
    )

    assert said(PROCESS + program) == ["1", "1", "True", "True"]
