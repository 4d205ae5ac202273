"""An order, a payment or a ledger that a job of the worker cannot work with keeps no other waiting."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import redis.asyncio as aioredis
from sqlalchemy import select, update

from shop.database import Database
from shop.failure_isolation import Isolation
from shop.ledger.keys import ledger_keys
from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderLine, OrderStatus
from shop.orders.release import sweep
from shop.payments import repository as payments
from shop.payments.gateway import HttpGateway
from shop.payments.matching import match_payments
from shop.payments.models import Payment, PaymentStatus, Refund, RefundStatus
from shop.payments.provider import send_refunds
from shop.products.models import Product
from shop.settings import Settings
from tests.faults.isolation.counted import failures, one_more_fails
from tests.faults.isolation.poisoned import unreadable
from tests.harness import Shop
from tests.lua.ledgers import command
from tests.notifications.outbox import make_order
from tests.orders.holds import available, make_due, sold_out_sale, statuses_of

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
STOCK_MAX = 2**63 - 1


async def statuses(database: Database, orders: Sequence[Order]) -> list[str]:
    async with database.transaction() as session:
        found = {order_id: status for order_id, status in await session.execute(select(Order.id, Order.status))}  # noqa: C416
    return [found[order.id] for order in orders]


async def test_an_order_that_cannot_be_closed_lets_all_others_expire(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Its units do not fit into the stock of its product any more."""
    orders = [await make_order(database) for _ in range(3)]
    async with database.transaction() as session:
        await session.execute(update(Order).values(expires_at=LONG_AGO))
        full = select(OrderLine.product_id).where(OrderLine.order_id == orders[1].id).scalar_subquery()
        await session.execute(update(Product).where(Product.id == full).values(stock=STOCK_MAX))
    isolation = Isolation("expiry", settings)

    with one_more_fails("expiry"):
        assert await expire_due(database, redis, settings, isolation) == 2
        assert await expire_due(database, redis, settings, isolation) == 0

    assert await statuses(database, orders) == [OrderStatus.EXPIRED, OrderStatus.RESERVED, OrderStatus.EXPIRED]


@pytest.mark.parametrize("kind", ["ledger", "buyer"])
async def test_a_ledger_or_a_buyer_in_it_that_cannot_be_read_keeps_no_other_units(bare_shop: Shop, kind: str) -> None:
    shop = bare_shop
    sales = [await sold_out_sale(shop, units=3) for _ in range(3)]
    await make_due(shop, *sales)
    keys, before = ledger_keys(sales[1].id, 1), failures("release")
    if kind == "ledger":
        await shop.redis.delete(keys.orders)
        await shop.redis.set(keys.orders, "no hash")
    else:
        first = next(iter(await command(shop.redis, "HKEYS", keys.buyers)))
        await command(shop.redis, "HSET", keys.buyers, first, b"nobody")

    await expire_due(shop.database, shop.redis, shop.settings)
    await sweep(shop.database, shop.redis, shop.settings)

    assert [await statuses_of(shop, sale) for sale in sales] == [{OrderStatus.EXPIRED: 3}] * 3
    assert [await available(shop, sale) for sale in (sales[0], sales[2])] == [3, 3]
    if kind == "buyer":
        assert await available(shop, sales[1]) == 2
        assert failures("release") > before


async def captured(database: Database) -> Order:
    """An order whose money is there and belongs to nobody yet."""
    order = await make_order(database)
    async with database.transaction() as session:
        payment = await payments.add_wanted(session, order)
        payment.captured_at, payment.intent_id, payment.status = (
            LONG_AGO,
            f"pi_{order.id.hex}",
            PaymentStatus.CAPTURED,
        )
    return order


async def test_money_that_cannot_be_matched_keeps_no_other_money_waiting(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    orders = [await captured(database) for _ in range(3)]
    await unreadable(database, "orders", "reserved_at", id=orders[1].id)

    with one_more_fails("matching"):
        assert await match_payments(database, redis, settings) == 2

    assert await statuses(database, orders) == [OrderStatus.PAID, OrderStatus.RESERVED, OrderStatus.PAID]


async def owed_back(database: Database) -> Order:
    order = await captured(database)
    async with database.transaction() as session:
        payment = await payments.get(session, order.id)
        await payments.add_refund(session, payment, reason="a test")
        payment.settled_at = LONG_AGO
    return order


async def test_a_refund_that_cannot_be_read_keeps_no_other_refund_waiting(
    database: Database, settings: Settings
) -> None:
    """Refunds of nothing, for which nobody has to ask the provider."""
    orders = [await owed_back(database) for _ in range(3)]
    async with database.transaction() as session:
        await session.execute(update(Payment).values(amount_minor=0))
        await session.execute(update(Refund).values(amount_minor=0))
    await unreadable(database, "payments", "created_at", order_id=orders[1].id)
    gateway = HttpGateway(settings)

    with one_more_fails("refunds"):
        assert await send_refunds(database, gateway, settings) == 2

    await gateway.close()
    async with database.transaction() as session:
        pending = await session.scalars(select(Refund.payment_id).where(Refund.status == RefundStatus.PENDING))
        assert pending.all() == [orders[1].id]
