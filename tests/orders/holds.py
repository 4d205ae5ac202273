"""Sales whose units are held, holds that run out, and what came back of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update

from shop.ledger import client as ledger
from shop.ledger.client import LastOrder, RedisClock, ReserveRequest
from shop.ledger.order_ids import keyed_order_id
from shop.orders.models import Order, OrderStatus
from shop.orders.persister import Persister
from shop.orders.repository import Owed
from shop.sales import service
from shop.sales.loading import load, loaded_sale
from shop.sales.models import LedgerRow, Sale
from tests.harness import TESTER, Shop, new_user_id, wait_until


async def available(shop: Shop, sale: Sale) -> int:
    """The units that the ledger has now."""
    state = await ledger.read_state(shop.redis, sale.id, 1)
    assert state is not None
    return state.available


async def orders_of(shop: Shop, sale: Sale) -> Sequence[Order]:
    """The rows of the sale's orders."""
    async with shop.database.transaction() as session:
        return (await session.execute(select(Order).where(Order.sale_id == sale.id))).scalars().all()


async def releases(shop: Shop, sale: Sale) -> Counter[UUID | None]:
    """How often the units of each order went back, by the recorded events."""
    query = select(LedgerRow.order_id).where(LedgerRow.sale_id == sale.id, LedgerRow.kind == "released")
    async with shop.database.transaction() as session:
        return Counter((await session.execute(query)).scalars())


async def close_by_hand(shop: Shop, sale: Sale) -> list[Owed]:
    """Cancel the sale's open orders in Postgres alone, as a crash right after the commit leaves them."""
    cancelled = (
        update(Order)
        .where(Order.sale_id == sale.id, Order.status == OrderStatus.RESERVED)
        .values(status=OrderStatus.CANCELLED, closed_at=func.now())
        .returning(Order.id, Order.seq)
    )
    async with shop.database.transaction() as session:
        return [Owed(order_id, sale.id, seq or 0) for order_id, seq in await session.execute(cancelled)]


async def until_released(shop: Shop, sale: Sale) -> None:
    """Wait until every order of the sale is closed and its units are back."""

    async def all_released() -> bool:
        return all(order.released_at for order in await orders_of(shop, sale))

    await wait_until(all_released, reason="the units are back")


async def sold_out_sale(shop: Shop, *, units: int) -> Sale:
    """A sale of which every unit is held by an order that is recorded."""
    draft = await shop.draft_sale(units=units, units_per_user=units)
    async with shop.database.transaction() as session:
        sale = await service.schedule(session, TESTER, draft.id)
    await load(shop.database, shop.redis, sale, shop.settings)
    assert set(await reserve(shop, sale, units)) == {"RESERVED"}
    await drain(shop, sale)
    return sale


async def reserve(shop: Shop, sale: Sale, orders: int) -> list[str]:
    """Make orders in the ledger, and return its answers."""
    found = loaded_sale(await shop.row(sale))
    wishes = []
    for _ in range(orders):
        user = new_user_id()
        wishes.append(ReserveRequest(keyed_order_id(sale.id, found.salt, user, "key"), user, 1))
    answers = []
    for start in range(0, orders, 256):
        answers += await ledger.reserve(
            shop.redis, found, wishes[start : start + 256], clock=RedisClock(), last=LastOrder(b"", 0), timeout=5
        )
    return [answer.word for answer in answers]


async def drain(shop: Shop, sale: Sale) -> None:
    """Record what the ledger has, as a worker does."""
    persister = Persister(shop.database, shop.redis, sale.id, shop.settings, asyncio.Event())
    state = await ledger.read_state(shop.redis, sale.id, 1)
    assert state is not None
    while (await shop.row(sale)).watermark < state.seq:
        await persister.step()


async def make_due(shop: Shop, *sales: Sale, order_ids: Sequence[UUID] | None = None) -> None:
    """Let the holds of these sales run out, those of the first made first."""
    due = update(Order).where(Order.sale_id.in_([sale.id for sale in sales]))
    if order_ids is not None:
        due = due.where(Order.id.in_(order_ids))
    async with shop.database.transaction() as session:
        await session.execute(due.values(expires_at=func.now() - func.make_interval(0, 0, 0, 1) / Order.seq))


async def statuses_of(shop: Shop, sale: Sale) -> Counter[OrderStatus]:
    return Counter(order.status for order in await orders_of(shop, sale))
