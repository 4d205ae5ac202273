"""The demo as a user runs it: a process that sells, proves, prints its figures and leaves nothing behind."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import psutil
import pytest

from shop.embedded import PostgresServer
from tests.harness import wait_until
from tests.nursery import ANY_PORT, Child, alive, family, start

DEMO_SECONDS = 110.0
# A Postgres that writes down one wrong balance.
LIE = """
CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.balance := NEW.balance + 1; RETURN NEW; END';
CREATE TRIGGER lie BEFORE INSERT ON stock_ledger FOR EACH ROW WHEN (NEW.seq = 3) EXECUTE FUNCTION lie();
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the demo has its temporary files; a short path, because sockets are in it."""
    found = Path(tempfile.mkdtemp(prefix="demo-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


def shops_in(directory: Path) -> list[Path]:
    """The temporary directories of the shops that run here."""
    return list(directory.glob("shop-*"))


def runs(module: str, process: psutil.Process) -> bool:
    """Whether this is the crowd of that name."""
    try:
        return module in process.cmdline()
    except psutil.Error:
        return False


async def until_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs."""

    async def gone() -> bool:
        return not alive(processes)

    await wait_until(gone, within=DEMO_SECONDS, reason="every process has ended")


async def lied(demo: Child, directory: Path) -> bool:
    """Whether the demo's Postgres has its tables, and has been made to lie."""
    assert demo.poll() is None
    try:
        (home,) = shops_in(directory)
        connection = await asyncpg.connect(PostgresServer(home).url.replace("+asyncpg", ""))
    except (ValueError, OSError, asyncpg.PostgresError):
        return False
    try:
        await connection.execute(LIE)
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()
    return True


async def until_expired(directory: Path, *, units: int) -> None:
    """Wait until the hold of so many orders is over."""
    (home,) = shops_in(directory)
    connection = await asyncpg.connect(PostgresServer(home).url.replace("+asyncpg", ""))

    async def expired() -> bool:
        return bool(await connection.fetchval("SELECT count(*) = $1 FROM orders WHERE status = 'expired'", units))

    try:
        await wait_until(expired, within=DEMO_SECONDS, reason="every hold is over")
    finally:
        await connection.close()


async def test_late_buyers_are_told_so_and_one_wrong_balance_makes_the_status_1(directory: Path) -> None:
    """Of one demo, because it costs as much as a hundred tests.

    As on a machine that is too slow for it all orders expire, and the second wave gets every unit. And the proof does
    not trust the shop: a balance that Postgres was made to write wrongly is found (I2), and nothing else is.
    """
    size = ("--units", "10", "--shoppers", "50", "--processes", "1")
    # The worker's audit would close the sale before the demo has come to its proof.
    variables = {**ANY_PORT, "SHOP_AUDIT_INTERVAL_SECONDS": "3600"}
    demo, output, errors = start(directory, "demo", "--exit", "--json", *size, TMPDIR=str(directory), **variables)
    await wait_until(partial(lied, demo, directory), within=DEMO_SECONDS, every=0.05, reason="the tables are there")

    async def buyers() -> psutil.Process | None:
        assert demo.poll() is None, errors.read_text()
        return next((each for each in family(demo.pid) if runs("loadtests.crowd.customers", each)), None)

    stopped = await wait_until(buyers, within=DEMO_SECONDS, every=0.05, reason="the buyers come")
    stopped.suspend()
    try:
        await until_expired(directory, units=10)
    finally:
        stopped.resume()
    status = await asyncio.to_thread(demo.wait, DEMO_SECONDS)

    assert status == 1, errors.read_text()
    assert "✗ failed: I2" in errors.read_text()
    figures = json.loads(output.read_text().splitlines()[-1])
    assert [name for name, holds in figures["invariants"].items() if not holds] == ["I2"]
    assert [figures[name] for name in ("expired", "returned", "resold", "paid")] == [10, 10, 10, 10]
    assert [figures[name] for name in ("late_customers", "failed_customers", "expired_early")] == [9, 0, 0]


async def test_a_demo_that_is_killed_takes_everything_along(directory: Path) -> None:
    """kill -9 gives it no chance to clean up; still no server, no API and no crowd is left."""
    demo, _, errors = start(directory, "demo", "--exit", "--processes", "1", TMPDIR=str(directory), **ANY_PORT)

    async def crowd() -> list[psutil.Process]:
        assert demo.poll() is None, errors.read_text()
        processes = family(demo.pid)
        return processes if any(runs("loadtests.crowd.rush", process) for process in processes) else []

    processes = await wait_until(crowd, within=DEMO_SECONDS, every=0.05, reason="the crowd is there")
    assert len(processes) >= 6

    demo.send_signal(signal.SIGKILL)

    await until_gone(processes)
