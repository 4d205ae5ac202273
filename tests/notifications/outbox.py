"""Things that happen in the shop, made by its own code without a worker, and what the outbox says of them."""

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, update

from shop.database import Database
from shop.ledger.events import LedgerEvent
from shop.notifications import repository as webhooks
from shop.notifications.collecting.collector import collect
from shop.notifications.delivering.delivery import Deliverer, channels
from shop.notifications.kinds import ORDER_KINDS, Kind
from shop.notifications.models import Delivery, Notification, Webhook
from shop.notifications.service import new_secret
from shop.orders import repository as orders
from shop.orders.batch import write_batch
from shop.orders.life import By, move, record_reserved
from shop.orders.models import Order, OrderStatus
from shop.products import repository as products
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.models import Sale
from shop.sales.schemas import SaleCreate
from shop.settings import Settings
from shop.users import repository as users
from shop.users.models import Role
from tests.harness import TESTER, new_user_id, wait_until

_numbers = itertools.count(1)


async def make_user(database: Database, *, email: str | None = None) -> str:
    """The id of a new account."""
    user_id = new_user_id()
    async with database.transaction() as session:
        await users.add(
            session,
            user_id=user_id,
            email=email or f"{user_id}@example.com",
            password_hash="none",
            role=Role.SHOPPER,
        )
    return user_id


async def make_order(
    database: Database, *, user_id: str | None = None, name: str = "Lamp", hold_seconds: int = 900
) -> Order:
    """An ordinary order of two units, reserved."""
    async with database.transaction() as session:
        product = await products.add(session, name=name, price_minor=990, currency="EUR", stock=10)
        order = await orders.add_ordinary(
            session,
            [(product.id, 2, 990)],
            hold_seconds=hold_seconds,
            id=uuid4(),
            user_id=user_id or new_user_id(),
            quantity=2,
            total_minor=1_980,
            currency="EUR",
        )
        await record_reserved(session, order)
    return order


async def move_order(database: Database, order: Order, to: OrderStatus) -> None:
    async with database.transaction() as session:
        assert await move(session, [order.id], to, by=By.SHOP, reason="a test")


async def bring_near(database: Database, order: Order, *, seconds: float) -> None:
    """The hold of this order ends so many seconds from now, and was as long as before."""
    back = order.expires_at - order.recorded_at
    ends = func.now() + timedelta(seconds=seconds)
    nearer = update(Order).where(Order.id == order.id).values(expires_at=ends, recorded_at=ends - back)
    async with database.transaction() as session:
        await session.execute(nearer)


async def make_sale(database: Database, *, units: int = 100) -> Sale:
    """A scheduled sale."""
    starts_at = datetime.now(UTC) - timedelta(seconds=1)
    async with database.transaction() as session:
        product = await products.add(session, name="Phone", price_minor=990, currency="EUR", stock=units)
        wish = SaleCreate(
            product_id=product.id,
            name=f"Sale {next(_numbers)}",
            units=units,
            starts_at=starts_at,
            ends_at=starts_at + timedelta(hours=1),
        )
        sale = await service.create(session, TESTER, wish)
        return await service.schedule(session, TESTER, sale.id)


async def drain(database: Database, settings: Settings, sale: Sale, purchases: int) -> list[UUID]:
    """Record so many purchases in one batch, as the persister does; the ids of their orders."""
    async with database.transaction() as session:
        found = await sales.lock(session, sale.id)
        assert found is not None
        now = await sales.database_time(session)
        events = [
            LedgerEvent(
                found.watermark + number,
                "reserved",
                -1,
                found.watermark_balance - number,
                now,
                order_id=uuid4(),
                user_id=new_user_id(),
                quantity=1,
                price_minor=990,
            )
            for number in range(1, purchases + 1)
        ]
        await write_batch(session, found, events, now, settings)
    return [event.order_id for event in events if event.order_id]


async def make_webhook(
    database: Database, url: str = "https://merchant.example/", events: Sequence[Kind] = ORDER_KINDS, **fields: Any
) -> Webhook:
    async with database.transaction() as session:
        return await webhooks.add_webhook(
            session, url=url, events=[*events], description="", secret=new_secret(), **fields
        )


async def read_webhook(database: Database, webhook: Webhook) -> Webhook:
    async with database.transaction() as session:
        return (await session.scalars(select(Webhook).where(Webhook.id == webhook.id))).one()


async def told(database: Database) -> list[tuple[str, UUID | str]]:
    """What was collected, as (kind, order or user), in no particular order."""
    async with database.transaction() as session:
        rows = (await session.scalars(select(Notification))).all()
    return sorted(((row.kind, row.order_id or row.user_id) for row in rows), key=str)


async def deliveries(database: Database) -> Sequence[Delivery]:
    """Every delivery, in the order in which they were made."""
    async with database.transaction() as session:
        return (await session.scalars(select(Delivery).order_by(Delivery.id))).all()


async def the_delivery(database: Database) -> Delivery:
    """The only delivery that there is."""
    [only] = await deliveries(database)
    return only


async def make_due(database: Database, **values: Any) -> None:
    """Every pending delivery is due now; `values` are set as well."""
    async with database.transaction() as session:
        pending = update(Delivery).where(Delivery.delivered_at.is_(None), Delivery.dead_at.is_(None))
        await session.execute(pending.values(next_try_at=func.now(), **values))


async def all_collected(database: Database, settings: Settings) -> None:
    """Collect until nothing is left; other sessions of this server may delay it by a moment."""
    while await collect(database, settings):
        pass


@asynccontextmanager
async def deliverer(database: Database, settings: Settings, **ways: Any) -> AsyncIterator[Deliverer]:
    """A deliverer of its own; `ways` are those of `channels`."""
    own = Deliverer(database, settings, channels(settings, **ways))
    try:
        yield own
    finally:
        await own.close(within=0)


async def deliver(database: Database, settings: Settings, **ways: Any) -> None:
    """Try once whatever is due."""
    async with deliverer(database, settings, **ways) as own:
        await own.start()
        await own.wait()


def ids(orders_: Iterable[Order]) -> list[UUID]:
    return [order.id for order in orders_]


async def reserved(database: Database, settings: Settings, count: int = 1) -> None:
    """So many orders were reserved and collected."""
    expected = len(await told(database)) + count
    for _ in range(count):
        await make_order(database)

    async def collected() -> bool:
        await all_collected(database, settings)
        return len(await told(database)) == expected

    await wait_until(collected, reason=f"{count} reservations are collected")
