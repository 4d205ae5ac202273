"""What a buyer may do with an order, whether its row exists already or only its entry in the ledger."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from uuid import UUID

import redis.asyncio as aioredis
from sqlalchemy.ext.asyncio import AsyncSession

from shop.cache import Cache
from shop.database import Database, after_commit
from shop.errors import NotReady, OrderClosed, OrderNotFound
from shop.ledger import client as ledger
from shop.ledger.client import LedgerOrder
from shop.ledger.order_ids import SALE_ID_MAX, sale_of
from shop.orders import repository
from shop.orders.life import By, move
from shop.orders.models import Order, OrderEvent, OrderLine, OrderStatus
from shop.orders.payment_of import OrderPayment, payments_of
from shop.orders.release import owed_to_sales, release
from shop.orders.repository import Owed
from shop.orders.schemas import OrderLineRead, OrderRead, TimelineEntry
from shop.orders.waiting import wait_recorded
from shop.products.service import forget_after_commit
from shop.redis import CONNECTION_ERRORS
from shop.sales import repository as sales
from shop.sales.models import Sale
from shop.seckill.polls import Polls
from shop.settings import Settings


async def read(
    session: AsyncSession, client: aioredis.Redis, *, order_id: UUID, buyer_id: str, polls: Polls
) -> OrderRead:
    """The buyer's order, from its row, or from the ledger while the row is on its way.

    Raises OrderNotFound, also for another buyer's, and NotReady when the ledger cannot be asked.
    """
    order = await repository.find(session, order_id, buyer_id)
    if order is not None:
        return await recorded(session, order)
    sale, entry = await in_ledger(session, client, order_id, buyer_id)
    return unrecorded(order_id, sale, entry, poll_after_ms=polls.after_ms())


async def cancel(
    database: Database, client: aioredis.Redis, cache: Cache, *, order_id: UUID, buyer_id: str, settings: Settings
) -> OrderRead:
    """Move a reserved order to cancelled; twice is the same as once.

    Its units go back to the sale's ledger right after the commit, those of an ordinary order to the stock with it.
    Raises OrderNotFound, OrderClosed if payment or expiry came first, or NotRecordedYet while the row is on its way.
    """

    async def attempt() -> OrderRead | None:
        async with database.transaction() as session:
            order = await _close(session, order_id, buyer_id)
            if order is None:
                await in_ledger(session, client, order_id, buyer_id)
                return None
            if owed := owed_to_sales([order]):
                after_commit(session, partial(_give_back, database, client, owed, settings))
            found = await recorded(session, order)
            if order.sale_id is None:
                for line in found.lines:
                    forget_after_commit(session, cache, line.product_id)
            return found

    return await wait_recorded(attempt, settings)


async def _close(session: AsyncSession, order_id: UUID, buyer_id: str) -> Order | None:
    """The cancelled order, or None while it has no row, or got it between our two reads. Raises OrderClosed."""
    order = await repository.find(session, order_id, buyer_id)
    if order is None:
        return None
    if closed := await move(session, [order_id], OrderStatus.CANCELLED, by=By.BUYER, reason="cancelled by the buyer"):
        return closed[0]
    await session.refresh(order)
    if order.status != OrderStatus.CANCELLED:
        raise OrderClosed(f"The order is {order.status}", order_status=order.status)
    return order


async def _give_back(database: Database, client: aioredis.Redis, owed: list[Owed], settings: Settings) -> None:
    await release(database, client, owed, settings)


async def in_ledger(
    session: AsyncSession, client: aioredis.Redis, order_id: UUID, buyer_id: str
) -> tuple[Sale, LedgerOrder]:
    """The order of this buyer that has no row yet, and its sale. Raises OrderNotFound or NotReady."""
    sale_id = sale_of(order_id)
    sale = await sales.find(session, sale_id) if 0 < sale_id <= SALE_ID_MAX else None
    if sale is None or sale.epoch == 0:
        raise OrderNotFound
    await session.close()  # No connection to Postgres is held while the ledger is asked.
    try:
        entry = await ledger.find_order(client, sale_id, sale.epoch, order_id.bytes)
    except CONNECTION_ERRORS as error:
        raise NotReady("The ledger cannot be asked at the moment") from error
    if entry is None or entry.user_id != buyer_id:
        raise OrderNotFound
    return sale, entry


async def recorded(session: AsyncSession, order: Order) -> OrderRead:
    """An order that has its row, with its lines and its timeline."""
    lines, events = await repository.lines(session, order.id), await repository.events(session, order.id)
    return _read(order, lines, events, (await payments_of(session, [order.id])).get(order.id))


def _read(
    order: Order, lines: Iterable[OrderLine], events: Sequence[OrderEvent], payment: OrderPayment | None
) -> OrderRead:
    return OrderRead(
        id=order.id,
        sale_id=order.sale_id,
        status=order.status,
        quantity=order.quantity,
        total_minor=order.total_minor,
        currency=order.currency,
        lines=[_line(line.product_id, line.quantity, line.price_minor, order.currency) for line in lines],
        reserved_at=order.reserved_at,
        expires_at=order.expires_at,
        closed_at=order.closed_at,
        released_at=order.released_at,
        recorded=True,
        poll_after_ms=None,
        payment=payment,
        timeline=_timeline(order.reserved_at, order.released_at, events),
    )


def _line(product_id: int, quantity: int, price_minor: int, currency: str) -> OrderLineRead:
    return OrderLineRead(product_id=product_id, quantity=quantity, price_minor=price_minor, currency=currency)


def unrecorded(order_id: UUID, sale: Sale, entry: LedgerOrder, *, poll_after_ms: int) -> OrderRead:
    """An order that is accepted, while its row is on the way."""
    reserved_at = datetime.fromtimestamp(entry.reserved_ms / 1000, UTC)
    line = _line(sale.product_id, entry.quantity, sale.price_minor, sale.currency)
    return OrderRead(
        id=order_id,
        sale_id=sale.id,
        status=OrderStatus.RESERVED,
        quantity=entry.quantity,
        total_minor=entry.quantity * sale.price_minor,
        currency=sale.currency,
        lines=[line],
        reserved_at=reserved_at,
        expires_at=reserved_at + timedelta(seconds=sale.hold_seconds),
        closed_at=None,
        released_at=None,
        recorded=False,
        poll_after_ms=poll_after_ms,
        payment=None,
        timeline=_timeline(reserved_at, None, ()),
    )


def _timeline(reserved_at: datetime, released_at: datetime | None, events: Sequence[OrderEvent]) -> list[TimelineEntry]:
    """What became of an order: that it was made and that its units went back is told by its row, the rest by events.

    It was made first, whatever the clock of the ledger says.
    """
    made = TimelineEntry(event=OrderStatus.RESERVED, at=reserved_at, by=By.BUYER, reason="asked for by the buyer")
    entries = [
        TimelineEntry.model_validate(
            {"event": event.status, "at": event.created_at, "by": event.moved_by, "reason": event.reason}
        )
        for event in events
    ]
    if released_at is not None:
        entries.append(TimelineEntry(event="released", at=released_at, by=By.SHOP, reason="the units are back"))
    return [made, *sorted(entries, key=attrgetter("at"))]
