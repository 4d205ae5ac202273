"""Pools that are smaller than the crowd: whoever finds no connection waits, and is refused in the end, never broken."""

import asyncio
from uuid import UUID, uuid4

import pytest
import redis.asyncio as aioredis
from redis.asyncio.connection import AbstractConnection
from sqlalchemy import text

from loadtests.chaos import chaos_proxy
from shop.redis import CONNECTION_ERRORS, NotSent, call_script, connect
from shop.sales import service
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import TESTER, Shop, outcome, running_shop, wait_until
from tests.processes import copy_of

CALLERS = 40


async def test_more_callers_than_connections_wait_for_one(shop: Shop) -> None:
    """F39: each is answered, by Redis and by Postgres, though the process has two connections to each."""
    sale = await shop.open_sale(units=CALLERS)
    small = copy_of(shop.settings, redis_pool_max=2, database_pool_max=2)
    async with running_shop(small, worker=False) as crowded:
        await crowded.until_loaded(sale)
        client, headers = await crowded.client(), crowded.headers()
        ids = [UUID(bytes=sale.id.to_bytes(4) + uuid4().bytes[4:]) for _ in range(CALLERS)]
        reading = [client.get(f"/v1/orders/{order_id}", headers=headers) for order_id in ids]
        buying = [crowded.buy(sale) for _ in range(CALLERS)]
        answers = await asyncio.gather(*reading, *buying)

    assert {answer.status_code for answer in answers[:CALLERS]} == {404}
    assert {outcome(answer) for answer in answers[CALLERS:]} == {"reserved"}


async def test_a_caller_who_waits_too_long_for_a_connection_is_told_that_nothing_was_done(
    redis: aioredis.Redis, settings: Settings
) -> None:
    """F39: NotSent for a script, which is 503; for a read an error that is known as "away", not as a fault of ours."""
    assert await redis.ping()
    client = connect(settings.redis_url, copy_of(settings, redis_pool_max=1, redis_pool_wait_seconds=0.05))
    held = await client.connection_pool.get_connection()
    try:
        with pytest.raises(NotSent):
            await call_script(client, "rate_limit", ["shop:{rate}:test:ann"], [1, 1], timeout=1.0)
        with pytest.raises(CONNECTION_ERRORS):
            await client.get("shop:nothing")
        await client.connection_pool.release(held)
        assert await client.get("shop:nothing") is None
    finally:
        await client.aclose(close_connection_pool=True)


async def test_a_request_that_waits_too_long_for_postgres_is_refused_and_the_next_one_is_served(
    fresh_settings: Settings,
) -> None:
    small = copy_of(fresh_settings, database_pool_max=1, database_pool_wait_seconds=0.5)
    async with running_shop(small, worker=False) as crowded:
        client, headers = await crowded.client(), crowded.headers()
        async with crowded.database.transaction() as session:
            await session.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
            reading = [asyncio.create_task(client.get("/v1/orders", headers=headers)) for _ in range(5)]

            async def only_one_waits() -> bool:
                return sum(not each.done() for each in reading) == 1

            await wait_until(only_one_waits, reason="the others are refused")
            for refused in [each for each in reading if each.done()]:
                problem_of(refused.result(), 503, "unavailable")

        assert sorted([(await each).status_code for each in reading]) == [200, 503, 503, 503, 503]
        assert (await client.get("/v1/orders", headers=headers)).status_code == 200


async def test_a_connection_that_is_closed_while_it_is_greeted_is_no_fault_of_ours(
    redis: aioredis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop calls it a RuntimeError, and a purchase that could not be sent is a 503."""

    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async with chaos_proxy(settings.redis_url) as proxy:  # by TCP; on a Unix socket the client says it otherwise
        client = connect(proxy.url, copy_of(settings, redis_pool_max=1))
        with monkeypatch.context() as patch:
            patch.setattr(AbstractConnection, "send_packed_command", closed)
            with pytest.raises(NotSent):
                await call_script(client, "rate_limit", ["shop:{rate}:test:ann"], [1, 1], timeout=1.0)
        assert await client.ping()
        await client.aclose(close_connection_pool=True)


async def test_a_process_learns_of_a_sale_while_its_requests_have_every_connection(shop: Shop) -> None:
    """Else the crowd of a sale that was recovered keeps the process from learning that it sells again (I12)."""
    patience = {"persist_idle_in_transaction_seconds": 60, "database_statement_timeout_seconds": 60}
    small = copy_of(shop.settings, database_pool_max=1, database_pool_wait_seconds=0.5, **patience)
    async with running_shop(small, worker=False) as crowded:
        client, headers = await crowded.client(), crowded.headers()
        async with crowded.database.transaction() as session:
            await session.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
            reading = [asyncio.create_task(client.get("/v1/orders", headers=headers)) for _ in range(5)]

            async def only_one_waits() -> bool:
                return sum(not each.done() for each in reading) == 1

            await wait_until(only_one_waits, reason="it has the only connection")
            sale = await shop.draft_sale(units=1)
            async with shop.database.transaction() as other:
                await service.schedule(other, TESTER, sale.id)
            await crowded.until_loaded(sale)
            assert await only_one_waits()
        await asyncio.gather(*reading)
