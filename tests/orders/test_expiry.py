"""Holds that run out by the thousand: in batches, each order once, and nobody waits for somebody else's trouble.

Most of these tests have no worker beside them, so that they alone decide what expires, and when.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis.asyncio as aioredis
from sqlalchemy import func, select, update

from shop.audit.service import audit_sale
from shop.database import Database
from shop.ledger import loading
from shop.orders import repository
from shop.orders.expiry import expire_due
from shop.orders.life import By, move
from shop.orders.models import Order, OrderEvent, OrderStatus
from shop.orders.release import sweep
from shop.products.models import Product
from shop.sales.models import Sale
from shop.settings import Settings
from shop.worker import Context, running_worker
from shop.worker.jobs import run_due
from tests.crowd import assert_each_recorded_once
from tests.harness import Shop, wait_until
from tests.orders.holds import (
    available,
    drain,
    make_due,
    orders_of,
    releases,
    reserve,
    sold_out_sale,
    statuses_of,
    until_released,
)
from tests.processes import copy_of, own_shop

PAIRS = 200
PAYERS = 4


@pytest.fixture
def quiet(settings: Settings, database: Database, redis: aioredis.Redis) -> Shop:
    """A shop without an API and without a worker."""
    return Shop(copy_of(settings, expiry_batch_max=7, release_batch_max=3), database, redis, base_url="")


async def expire(shop: Shop) -> int:
    return await expire_due(shop.database, shop.redis, shop.settings)


async def events_of(shop: Shop, sale: Sale) -> Counter[tuple[UUID, str]]:
    """How often each order was moved, and where to."""
    query = select(OrderEvent.order_id, OrderEvent.status).join(Order, Order.id == OrderEvent.order_id)
    async with shop.database.transaction() as session:
        rows = await session.execute(query.where(Order.sale_id == sale.id))
        return Counter((order_id, status) for order_id, status in rows)


async def assert_all_back(shop: Shop, sale: Sale) -> None:
    """Every order of the sale has expired once, gave its units back once, and all of them can be sold again."""
    await drain(shop, sale)
    orders = await orders_of(shop, sale)
    assert await events_of(shop, sale) == Counter((order.id, "expired") for order in orders)
    assert await releases(shop, sale) == Counter(order.id for order in orders)
    assert (await shop.row(sale)).units_taken == 0
    assert (await audit_sale(shop.database, shop.redis, sale.id)).balanced
    assert set(await reserve(shop, sale, len(orders))) == {"RESERVED"}


async def test_due_orders_expire_in_batches_and_their_units_are_sold_again(quiet: Shop) -> None:
    """More than one batch, and one that is not full; what is not due stays."""
    sale, later = await sold_out_sale(quiet, units=25), await sold_out_sale(quiet, units=2)
    assert await reserve(quiet, sale, 1) == ["SOLD_OUT"]
    await make_due(quiet, sale)

    assert await expire(quiet) == 25

    await assert_all_back(quiet, sale)
    assert await statuses_of(quiet, later) == {OrderStatus.RESERVED: 2}


async def test_nobody_loses_their_hold_a_few_seconds_early(quiet: Shop) -> None:
    sale = await sold_out_sale(quiet, units=3)
    async with quiet.database.transaction() as session:
        soon = func.now() + timedelta(seconds=9)
        await session.execute(update(Order).where(Order.sale_id == sale.id).values(expires_at=soon))

    assert await expire(quiet) == 0
    assert await statuses_of(quiet, sale) == {OrderStatus.RESERVED: 3}


async def test_one_run_closes_no_more_than_its_batches_and_the_first_due_first(quiet: Shop) -> None:
    quiet.settings = copy_of(quiet.settings, expiry_batches_max=2)
    sale = await sold_out_sale(quiet, units=20)
    await make_due(quiet, sale)

    assert await expire(quiet) == 14

    expired = {order.seq for order in await orders_of(quiet, sale) if order.status == OrderStatus.EXPIRED}
    assert expired == set(range(1, 15))


async def test_a_worker_expires_no_more_in_a_second_than_it_may(quiet: Shop) -> None:
    """Payments need the servers as well. Three batches of seven, of which two are waited for."""
    quiet.settings = copy_of(quiet.settings, expiry_per_second_max=50)
    sale = await sold_out_sale(quiet, units=20)
    await make_due(quiet, sale)
    began = time.monotonic()

    assert await expire(quiet) == 20

    assert time.monotonic() - began >= 14 / 50


async def test_workers_beside_each_other_expire_each_order_once(quiet: Shop) -> None:
    sale = await sold_out_sale(quiet, units=150)
    await make_due(quiet, sale)

    expired = await asyncio.gather(*(expire(quiet) for _ in range(4)))

    assert sum(expired) == 150
    await assert_all_back(quiet, sale)


async def test_a_payment_and_the_expiry_have_one_winner(quiet: Shop) -> None:
    """200 pairs: payments come from the end and batches from the beginning, and they meet. No paid order is closed."""
    sale = await sold_out_sale(quiet, units=PAIRS)
    order_ids = [order.id for order in sorted(await orders_of(quiet, sale), key=lambda order: -(order.seq or 0))]
    waiting = iter(order_ids)
    paid: set[UUID] = set()

    async def pay() -> None:
        for order_id in waiting:
            async with quiet.database.transaction() as session:
                if await move(session, [order_id], OrderStatus.PAID, by=By.PROVIDER, reason="a test"):
                    paid.add(order_id)

    async def expire_until_over() -> None:
        while (await statuses_of(quiet, sale))[OrderStatus.RESERVED]:
            await expire(quiet)

    await make_due(quiet, sale)
    await asyncio.gather(*(pay() for _ in range(PAYERS)), expire_until_over(), expire_until_over())

    await drain(quiet, sale)
    orders = await orders_of(quiet, sale)
    assert {order.id for order in orders if order.status == OrderStatus.PAID} == paid
    assert {order.id for order in orders if order.closed_at is None} == paid
    assert await statuses_of(quiet, sale) == {OrderStatus.PAID: len(paid), OrderStatus.EXPIRED: PAIRS - len(paid)}
    assert await events_of(quiet, sale) == Counter((order.id, order.status) for order in orders)
    assert await releases(quiet, sale) == Counter(order.id for order in orders if order.id not in paid)
    assert await available(quiet, sale) == PAIRS - len(paid)
    assert (await audit_sale(quiet.database, quiet.redis, sale.id)).balanced


async def test_an_order_that_a_payment_has_locked_does_not_stop_the_others(quiet: Shop) -> None:
    """It is skipped, and expires at the next run unless it is paid by then."""
    sale = await sold_out_sale(quiet, units=20)
    await make_due(quiet, sale)
    locked = random.choice([order.id for order in await orders_of(quiet, sale)])  # noqa: S311 - no secret

    async with quiet.database.transaction() as session:
        await session.execute(select(Order.id).where(Order.id == locked).with_for_update())
        async with asyncio.timeout(quiet.settings.database_statement_timeout_seconds):
            assert await expire(quiet) == 19
        assert await statuses_of(quiet, sale) == {OrderStatus.EXPIRED: 19, OrderStatus.RESERVED: 1}

    assert await expire(quiet) == 1
    await assert_all_back(quiet, sale)


async def test_an_order_that_gets_a_payment_row_can_expire_meanwhile(quiet: Shop) -> None:
    """Whoever refers to an order locks its key alone; expiry leaves keys as they are."""
    sale = await sold_out_sale(quiet, units=2)
    await make_due(quiet, sale)

    async with quiet.database.transaction() as session:
        await session.execute(select(Order.id).with_for_update(read=True, key_share=True))
        assert await expire(quiet) == 2


async def test_a_product_that_is_locked_does_not_hold_up_the_orders_of_sales(quiet: Shop) -> None:
    """Ordinary orders give their units back to it in the same transaction, and may have to wait; sales do not."""
    sale, product = await sold_out_sale(quiet, units=10), await quiet.make_product(stock=5)
    async with quiet.database.transaction() as session:
        await repository.add_ordinary(
            session, [(product.id, 1, 990)], hold_seconds=0,
            id=uuid4(), user_id="ann", quantity=1, total_minor=990, currency="EUR",
        )  # fmt: skip
    await make_due(quiet, sale)

    async with quiet.database.transaction() as session:
        await session.execute(select(Product.id).where(Product.id == product.id).with_for_update())
        expiring = asyncio.create_task(expire(quiet))

        async def all_expired() -> bool:
            return await statuses_of(quiet, sale) == {OrderStatus.EXPIRED: 10}

        await wait_until(all_expired, reason="the orders of the sale have expired")
        await wait_until(lambda: all_available(quiet, sale, 10), reason="their units are back")
        assert not expiring.done()

    assert await expiring == 11


async def all_available(shop: Shop, sale: Sale, units: int) -> bool:
    return await available(shop, sale) == units


async def test_a_sale_with_a_broken_ledger_does_not_keep_the_units_of_another(quiet: Shop) -> None:
    """Neither when orders expire, nor when what is owed is swept, though it has more orders and they are older."""
    broken, sound = await sold_out_sale(quiet, units=40), await sold_out_sale(quiet, units=10)
    await make_due(quiet, broken, sound)
    await loading.fence(quiet.redis, broken.id, [1], number=1)

    assert await expire(quiet) == 50
    assert await available(quiet, sound) == 10


async def test_a_sweep_goes_through_the_sales_round_robin(quiet: Shop) -> None:
    """Four sales wait for their drain alone and have many orders; the fifth has two batches to give back."""
    waiting, sound = [await sold_out_sale(quiet, units=30) for _ in range(4)], await sold_out_sale(quiet, units=6)
    for sale in waiting:
        await close_all(quiet, sale)
    assert await sweep(quiet.database, quiet.redis, copy_of(quiet.settings, release_sweep_batches_max=60)) == 120
    await close_all(quiet, sound)

    swept = await sweep(quiet.database, quiet.redis, copy_of(quiet.settings, release_sweep_batches_max=10))

    assert swept == await available(quiet, sound) == 6


async def test_a_sweep_leaves_a_sale_with_a_broken_ledger_alone(quiet: Shop) -> None:
    broken, sound = await sold_out_sale(quiet, units=40), await sold_out_sale(quiet, units=10)
    await loading.fence(quiet.redis, broken.id, [1], number=1)
    for sale in (broken, sound):
        await close_all(quiet, sale)

    swept = await sweep(quiet.database, quiet.redis, copy_of(quiet.settings, release_sweep_batches_max=5))

    assert swept == 10
    assert await available(quiet, sound) == 10


async def test_a_sweep_goes_on_behind_what_is_released_and_not_recorded_yet(quiet: Shop) -> None:
    """A killed worker leaves both: those it released come first, and wait for the drain alone."""
    sale = await sold_out_sale(quiet, units=10)
    await close_all(quiet, sale)
    few = copy_of(quiet.settings, release_sweep_batches_max=2)
    assert await sweep(quiet.database, quiet.redis, few) == 6

    assert await sweep(quiet.database, quiet.redis, quiet.settings) == 4

    assert await available(quiet, sale) == 10


async def close_all(shop: Shop, sale: Sale) -> None:
    """Close orders as a worker does that is killed right after its commit."""
    async with shop.database.transaction() as session:
        order_ids = list(await session.scalars(select(Order.id).where(Order.sale_id == sale.id)))
        assert await move(session, order_ids, OrderStatus.EXPIRED, by=By.SHOP, reason="a test")


async def test_a_run_that_takes_longer_than_a_second_is_not_joined_by_another(quiet: Shop) -> None:
    """The next job comes each second; many of them at once would only hold more rows locked."""
    sale = await sold_out_sale(quiet, units=5)
    await make_due(quiet, sale)
    context = Context.connect(quiet.settings)

    context.running.add("expire")
    await run_due({"shop": context}, ["expire"])
    assert await statuses_of(quiet, sale) == {OrderStatus.RESERVED: 5}
    context.running.clear()
    await run_due({"shop": context}, ["expire"])

    assert await statuses_of(quiet, sale) == {OrderStatus.EXPIRED: 5}
    await context.close()


async def test_a_worker_killed_between_a_batch_and_its_release_loses_and_doubles_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The closed rows are the outbox: the next worker gives their units back, and expires the rest (I8, I12)."""
    settings = copy_of(fresh_settings, expiry_batch_max=20)
    async with own_shop(settings, tmp_path) as own:
        own.processes.start_worker("first", SHOP_FAULT="after_expiry", SHOP_EXPIRY_BATCH_MAX="20")
        sale = await own.shop.open_sale(units=100)
        answers = await asyncio.gather(*(own.shop.buy(sale) for _ in range(100)))
        await own.shop.drained(sale)
        await make_due(own.shop, sale)

        assert await own.processes.until_dead("first") == -signal.SIGKILL
        assert await statuses_of(own.shop, sale) == {OrderStatus.EXPIRED: 20, OrderStatus.RESERVED: 80}
        assert await available(own.shop, sale) == 0

        async with running_worker(own.shop.settings):
            await until_released(own.shop, sale)
            await assert_each_recorded_once(own.shop, sale, [answer.json()["id"] for answer in answers])
        orders = await orders_of(own.shop, sale)
        assert await events_of(own.shop, sale) == Counter((order.id, "expired") for order in orders)
        assert await releases(own.shop, sale) == Counter(order.id for order in orders)
        assert await available(own.shop, sale) == 100
        assert (await own.shop.buy(sale)).status_code == 202
