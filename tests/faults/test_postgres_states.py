"""The states of a failover: what cannot be done now is 503 and heals by itself, and purchases go on meanwhile."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from shop.database import Database, is_unavailable
from shop.embedded import PostgresServer
from shop.readiness import READ_ONLY
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.crowd import Crowd, assert_each_recorded_once
from tests.faults.operating import HEALED_SECONDS, operator
from tests.harness import Shop, create_database, keyed, wait_until
from tests.processes import copy_of, own_shop

# What a server in a failover says, and one that is full, locked, or lets nobody in.
PASSING = (
    "08006", "25006", "25P03", "25P04", "26000", "28000", "28P01", "3D000", "40001", "40P01", "53100", "53200",
    "53300", "55006", "55P03", "57014", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030",
)  # fmt: skip
# A statement that is wrong stays wrong: who asks again gets nothing else.
DEFECTS = ("0A000", "22012", "23502", "25001", "25P01", "42601", "42P01", "XX000")

# That of the last checkpoint may be the old one for a while.
TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"

SAY = """
CREATE OR REPLACE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'said by a test' USING ERRCODE = '{state}'; END $$;
"""


@asynccontextmanager
async def saying(settings: Settings, table: str) -> AsyncIterator[Callable[[str], "asyncio.Future[str]"]]:
    """Whatever is written into a table fails with the SQLSTATE that was given last, until the end of the block."""
    async with operator(settings) as connection:

        def say(state: str) -> "asyncio.Future[str]":
            return asyncio.ensure_future(connection.execute(SAY.format(state=state)))

        await say("57P03")
        await connection.execute(
            f"CREATE TRIGGER say BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION say()"
        )
        yield say
        await connection.execute(f"DROP TRIGGER say ON {table}; DROP FUNCTION say")


async def write(shop: Shop) -> httpx.Response:
    """A request that writes into Postgres: a new product."""
    body = {"name": "Thing", "price_minor": 1, "currency": "EUR"}
    return await (await shop.client()).post("/v1/admin/products", headers=keyed(shop.admin_headers()), json=body)


def assert_not_executed(answer: httpx.Response) -> None:
    """It is said that nothing was done, and when to come back."""
    problem_of(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


async def failing(shop: Shop) -> dict[str, str]:
    """The checks of readiness that fail, with their reasons."""
    answer = await (await shop.client()).get("/readyz")
    found = {name: reason for name, reason in answer.json()["checks"].items() if reason != "ok"}
    assert answer.status_code == (503 if found else 200)
    return found


async def until_healed(shop: Shop) -> None:
    """Wait until the shop is ready and writes again, by itself."""

    async def healed() -> bool:
        answer = await write(shop)
        assert answer.status_code in {201, 503}, answer.text
        return answer.status_code == 201 and not await failing(shop)

    await wait_until(healed, within=HEALED_SECONDS, reason="the shop writes again")


async def test_whatever_a_failover_says_is_503_and_a_wrong_statement_is_500(shop: Shop) -> None:
    # A defect is logged with its traceback, which takes the console of the tests longer than everything else here.
    with capture_logs() as logs:
        async with saying(shop.settings, "products") as say:
            for state in PASSING:
                await say(state)
                assert_not_executed(await write(shop))
            for state in DEFECTS:
                await say(state)
                problem_of(await write(shop), 500, "internal_error")

    assert (await write(shop)).status_code == 201
    assert [each["event"] for each in logs if each["log_level"] == "error"] == ["unforeseen"] * len(DEFECTS)


async def test_a_drain_that_a_failover_stops_is_tried_again_and_pauses_no_sale(shop: Shop) -> None:
    """Whatever the state: it says nothing about the data (I6)."""
    sale = await shop.open_sale(units=len(PASSING))
    orders = set()
    async with saying(shop.settings, "stock_ledger") as say:
        for state in PASSING:
            await say(state)
            orders.add(await shop.bought(sale))

    await assert_each_recorded_once(shop, sale, orders)
    assert (await shop.row(sale)).paused is False


async def test_a_primary_that_becomes_read_only_refuses_writes_until_it_is_not(
    breakable: Settings, tmp_path: Path
) -> None:
    """Reads are answered and units are sold; readiness says it, and no sale is paused (row of the SQLSTATE 25006)."""
    async with own_shop(breakable, tmp_path, worker_here=True) as own, operator(breakable) as connection:
        shop, client = own.shop, await own.shop.client()
        sale = await shop.open_sale(units=100)
        await until_healed(shop)
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        try:

            async def read_only() -> bool:
                return bool(await failing(shop))

            await wait_until(read_only, reason="Postgres is read-only")
            assert await failing(shop) == {"postgres": READ_ONLY}
            admin, buyer = shop.admin_headers(), shop.headers()
            stock, change = f"/v1/admin/products/{sale.product_id}/stock", f"/v1/admin/sales/{sale.id}/pause"
            for answer in (
                await write(shop),
                await client.post(stock, headers=keyed(admin), json={"delta": 1}),
                await client.post(change, headers=keyed(admin)),
                await client.post(
                    "/v1/orders",
                    headers=keyed(buyer),
                    json={"lines": [{"product_id": sale.product_id, "quantity": 1}]},
                ),
            ):
                assert_not_executed(answer)
            assert (await client.get("/v1/orders", headers=buyer)).status_code == 200
            crowd = await Crowd(shop, sale).run(buyers=40)
        finally:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")

        assert (crowd.finals, crowd.passing) == ({"reserved": 40}, {})
        await until_healed(shop)
        await assert_each_recorded_once(shop, sale, crowd.orders.values())
        row = await shop.row(sale)
        assert (row.paused, row.alarm, row.recovery) == (False, None, 0)


@pytest.mark.parametrize("hot", ["on", "off"])
async def test_a_standby_that_becomes_the_primary_is_used_on_its_new_timeline(
    postgres: PostgresServer, breakable: Settings, tmp_path: Path, hot: str
) -> None:
    """First it lets nobody write, or (not hot) nobody in at all; each request is 503, each purchase goes on."""
    data = postgres.directory / "data"
    async with own_shop(breakable, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=100)
        await until_healed(shop)
        await asyncio.to_thread(postgres.stop)
        (data / "standby.signal").touch()
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write(f"hot_standby = {hot}\n")
        starting = asyncio.create_task(asyncio.to_thread(postgres.start))
        try:

            async def is_standby() -> bool:
                words = READ_ONLY if hot == "on" else "Postgres is starting or stopping"
                return (await failing(shop)).get("postgres") == words

            await wait_until(is_standby, reason="it is a standby")
            crowd = await Crowd(shop, sale).run(buyers=40)
            for _ in range(10):
                assert_not_executed(await write(shop))
        finally:
            (data / "promote").touch()
            os.kill(postgres.pid, signal.SIGUSR1)
            await starting

        assert (crowd.finals, crowd.passing) == ({"reserved": 40}, {})
        await until_healed(shop)
        await assert_each_recorded_once(shop, sale, crowd.orders.values())
        async with operator(breakable) as connection:
            assert await connection.fetchval(TIMELINE) > "00000001"


async def test_a_connection_to_a_server_that_is_read_only_is_replaced(clean_settings: Settings) -> None:
    """Behind the same name there is a new primary: who keeps the old connection never gets there."""
    database = Database(clean_settings, application_name="shop-tests", pool_max=1)
    pids = []

    async def run(statement: str) -> None:
        async with database.transaction() as session:
            pids.append((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())
            await session.execute(text(statement))

    await run("SET default_transaction_read_only = on")
    with pytest.raises(DBAPIError) as refused:
        await run("CREATE TABLE never (x int)")
    await run("CREATE TEMPORARY TABLE written (x int)")
    await database.close()

    assert is_unavailable(refused.value)
    assert pids[0] == pids[1] != pids[2]


async def test_of_several_hosts_the_primary_is_found(postgres: PostgresServer, clean_settings: Settings) -> None:
    """The first host of the URL is read-only, as a standby is; the shop goes to the second."""
    urls = [create_database(url, "several") for url in (postgres.url, clean_settings.database_url)]
    first, second = (url.partition("host=")[2].partition("&")[0] for url in urls)
    async with operator(copy_of(clean_settings, database_url=urls[0])) as connection:
        await connection.execute("ALTER DATABASE several SET default_transaction_read_only = on")
    several = copy_of(clean_settings, database_url=f"postgres://shop@/several?host={quote(f'{first},{second}')}")
    database = Database(several, application_name="shop-tests")
    async with database.transaction() as session:
        found = (await session.execute(text("SHOW unix_socket_directories"))).scalar_one()
    await database.close()

    assert found == second


async def test_a_postgres_that_lets_nobody_in_refuses_with_503_and_is_named(
    breakable: Settings, tmp_path: Path
) -> None:
    """Its role has lost the right to connect: readiness says it without a name or an address."""
    async with operator(breakable) as connection:
        await connection.execute("CREATE ROLE exiled LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO exiled")
        as_exiled = copy_of(breakable, database_url=breakable.database_url.replace("//shop@", "//exiled@"))
        async with own_shop(as_exiled, tmp_path) as own:
            assert set(await failing(own.shop)) == {"scripts"}
            await connection.execute("ALTER ROLE exiled NOLOGIN")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'exiled'")
            assert_not_executed(await write(own.shop))
            reasons = await failing(own.shop)
            assert reasons["postgres"] == reasons["migrations"] == "Postgres does not let the shop in"
            await connection.execute("ALTER ROLE exiled LOGIN")

            async def back() -> bool:
                return set(await failing(own.shop)) == {"scripts"}

            await wait_until(back, within=HEALED_SECONDS, reason="it is let in again")
