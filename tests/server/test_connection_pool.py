"""The gate before the connections to Postgres: a bounded line, first come first served, and a place for who leaves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shop.connection_pool import NoConnectionFree, PoolGate, TooManyWaiting
from shop.database import UNAVAILABLE_ERRORS, Database
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import keyed, running_shop, wait_until
from tests.processes import copy_of

WAITING_MAX = 3
PATIENT_SECONDS = 20.0


@asynccontextmanager
async def pool_of_one(settings: Settings, *, wait_seconds: float = PATIENT_SECONDS) -> AsyncIterator[Database]:
    """One connection, for which three callers may wait."""
    small = copy_of(settings, database_pool_wait_seconds=wait_seconds, database_pool_waiting_max=WAITING_MAX)
    database = Database(small, application_name="shop-tests", pool_max=1)
    try:
        yield database
    finally:
        await database.close()


async def until_waiting(database: Database, number: int) -> None:
    async def waiting() -> bool:
        return database.callers_waiting == number

    await wait_until(waiting, reason=f"{number} callers wait")


async def taken(database: Database) -> AsyncConnection:
    """A connection that is taken until it is closed."""
    return await database.engine.connect().start()


async def test_connections_are_lent_in_the_order_of_asking(clean_settings: Settings) -> None:
    """Who asks in the moment in which a connection comes back stands behind those who wait."""
    served: list[str] = []

    async def ask(name: str) -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            served.append(name)

    async with pool_of_one(clean_settings) as database:
        held = await taken(database)
        asking = []
        for number, name in enumerate(("first", "second"), start=1):
            asking.append(asyncio.create_task(ask(name)))
            await until_waiting(database, number)
        await held.close()
        await asyncio.gather(ask("newcomer"), *asking)

    assert served == ["first", "second", "newcomer"]


async def test_who_finds_the_line_full_is_refused_at_once(clean_settings: Settings) -> None:
    async with pool_of_one(clean_settings) as database:
        held = await taken(database)
        asking = [asyncio.create_task(taken(database)) for _ in range(WAITING_MAX)]
        await until_waiting(database, WAITING_MAX)

        started = time.monotonic()
        with pytest.raises(TooManyWaiting):
            await taken(database)
        assert time.monotonic() - started < 1.0

        await held.close()
        for one in asking:
            await (await one).close()


async def test_who_has_waited_long_enough_is_refused_and_leaves_their_place(clean_settings: Settings) -> None:
    async with pool_of_one(clean_settings, wait_seconds=0.1) as database:
        held = await taken(database)
        for _ in range(2 * WAITING_MAX):
            with pytest.raises(NoConnectionFree):
                await taken(database)
        await held.close()
        await (await taken(database)).close()


async def test_who_is_cancelled_while_they_wait_leaves_their_place_to_the_next(clean_settings: Settings) -> None:
    async with pool_of_one(clean_settings) as database:
        held = await taken(database)
        first, second = (asyncio.create_task(taken(database)) for _ in range(2))
        await until_waiting(database, 2)
        first.cancel()
        await held.close()

        await (await second).close()
        assert (database.callers_waiting, database.connections_in_use) == (0, 0)


async def test_a_place_that_was_given_to_a_cancelled_caller_goes_to_the_next() -> None:
    gate = PoolGate(places=1, waiting_max=2)
    assert gate.enter_at_once()
    first, second = (asyncio.create_task(gate.wait(PATIENT_SECONDS)) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first

    await second
    gate.leave()
    assert gate.enter_at_once()


async def test_who_cannot_connect_lets_the_next_one_try(clean_settings: Settings) -> None:
    """Else one failed attempt is a connection that the pool never makes again."""
    away = copy_of(clean_settings, database_url="postgresql+asyncpg://shop@/shop?host=/nowhere&port=5432")
    async with pool_of_one(away, wait_seconds=2.0) as database:
        tries = await asyncio.gather(*(taken(database) for _ in range(1 + WAITING_MAX)), return_exceptions=True)

    assert all(isinstance(error, UNAVAILABLE_ERRORS) for error in tries), tries
    assert not any(isinstance(error, NoConnectionFree | TooManyWaiting) for error in tries), tries


async def test_no_more_connections_are_kept_than_the_pool_may_have(clean_settings: Settings) -> None:
    """Else whoever keeps them holds all there are, and waits for one more."""
    async with pool_of_one(clean_settings, wait_seconds=0.1) as database:
        await database.keep_open(4)
        assert (database.connections_open, database.connections_in_use) == (1, 0)


async def test_a_request_that_finds_the_line_full_is_told_to_come_back_later(fresh_settings: Settings) -> None:
    """503 `overloaded` with `Retry-After` at once; those in the line are served when the lock is gone."""
    small = copy_of(
        fresh_settings,
        database_pool_max=1,
        database_pool_waiting_max=1,
        database_pool_wait_seconds=PATIENT_SECONDS,
        database_lock_timeout_seconds=PATIENT_SECONDS,
        database_statement_timeout_seconds=PATIENT_SECONDS,
        persist_idle_in_transaction_seconds=PATIENT_SECONDS,
    )
    async with running_shop(small, worker=False) as shop:
        client, headers = await shop.client(), shop.headers()
        async with shop.database.transaction() as session:
            await session.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
            reading = [asyncio.create_task(client.get("/v1/orders", headers=headers)) for _ in range(6)]

            async def refused() -> bool:
                return sum(each.done() for each in reading) == 4

            await wait_until(refused, reason="all but two are refused")
            for each in reading:
                if each.done():
                    problem_of(each.result(), 503, "overloaded")

        assert sorted([(await each).status_code for each in reading]) == [200, 200, 503, 503, 503, 503]


async def test_a_request_that_waits_for_a_locked_row_is_refused_in_time_and_told_why(fresh_settings: Settings) -> None:
    async with running_shop(copy_of(fresh_settings, database_lock_timeout_seconds=0.1), worker=False) as shop:
        product = await shop.make_product(stock=5)
        client, path = await shop.client(), f"/v1/admin/products/{product.id}/stock"
        async with shop.database.transaction() as session:
            await session.execute(text("SELECT * FROM products WHERE id = :id FOR UPDATE"), {"id": product.id})
            refused = await client.post(path, headers=keyed(shop.admin_headers()), json={"delta": 1})

        assert "locked" in problem_of(refused, 503, "unavailable")["detail"]
        done = await client.post(path, headers=keyed(shop.admin_headers()), json={"delta": 1})
        assert done.status_code == 200, done.text


async def test_only_those_who_are_given_a_lock_timeout_have_one(clean_settings: Settings) -> None:
    """A persister waits for a sale's row until it ends whoever holds it (`persist_lock_wait_seconds`)."""
    for seconds, shown in ((0.0, "0"), (1.5, "1500ms")):
        database = Database(clean_settings, application_name="shop-tests", lock_seconds=seconds)
        async with database.transaction() as session:
            assert (await session.execute(text("SHOW lock_timeout"))).scalar_one() == shown
        await database.close()
