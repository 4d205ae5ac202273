"""Every query of the collector: where it stands, what happened since, who listens, and the rows that it makes."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Xid8
from shop.notifications.models import CollectorPosition, CollectorSale, Delivery, Notification, Webhook
from shop.orders.models import Order, OrderEvent, OrderLine, OrderStatus
from shop.products.models import Product
from shop.sales.models import LedgerRow, Sale
from shop.users.models import User

ONLY_ROW = 0
COLLECTOR_LOCK = 0x5348_434F
# RFC 2606 reserves it: no mail can ever be sent there.
NO_MAIL = "%.invalid"


class Bounds(NamedTuple):
    """How far the collector may read: every transaction below `tx` has ended."""

    tx: int
    now: datetime


class MovedSale(NamedTuple):
    """A sale whose ledger was read up to (`from_epoch`, `from_seq`) and is recorded up to (`epoch`, `watermark`)."""

    sale_id: int
    from_epoch: int
    from_seq: int
    epoch: int
    watermark: int


class BoughtLine(NamedTuple):
    """A line of an order, with the name of its product."""

    product_id: int
    name: str
    quantity: int
    price_minor: int


async def lock_position(session: AsyncSession) -> CollectorPosition | None:
    """Where the collector stands, for this transaction alone; None while another one is at it.

    The lock is not the row's: taking that one writes, each second, though nothing may have happened.
    """
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(COLLECTOR_LOCK))):
        return None
    query = select(CollectorPosition).where(CollectorPosition.id == ONLY_ROW)
    position = (await session.scalars(query)).one_or_none()
    if position is None:
        position = (
            await session.scalars(insert(CollectorPosition).values(id=ONLY_ROW).returning(CollectorPosition))
        ).one()
    return position


async def bounds(session: AsyncSession) -> Bounds:
    """How far may be read now."""
    query = select(func.pg_snapshot_xmin(func.pg_current_snapshot(), type_=Xid8), func.now())
    return Bounds(*(await session.execute(query)).one())


async def moved_sales(session: AsyncSession, *, limit: int) -> Sequence[MovedSale]:
    """Sales with something in their ledger that was not read."""
    epoch, seq = func.coalesce(CollectorSale.epoch, 0), func.coalesce(CollectorSale.seq, 0)
    query = (
        select(Sale.id, epoch, seq, Sale.epoch, Sale.watermark)
        .outerjoin(CollectorSale, CollectorSale.sale_id == Sale.id)
        .where(tuple_(Sale.epoch, Sale.watermark) > tuple_(epoch, seq))
        .order_by(Sale.id)
        .limit(limit)
    )
    return [MovedSale(*row) for row in await session.execute(query)]


async def reserved(session: AsyncSession, sale: MovedSale, *, limit: int) -> Sequence[tuple[int, int, Order]]:
    """Purchases of a sale that were not read, as (epoch, seq, order), in the order of the ledger.

    The watermark is committed with the rows below it, one batch after the other, so none of them appears later.
    """
    query = _reserved(sale, LedgerRow.epoch, LedgerRow.seq, Order).limit(limit)
    return [(epoch, seq, order) for epoch, seq, order in await session.execute(query)]


def _reserved(sale: MovedSale, *columns: Any) -> Select[Any]:
    place = tuple_(LedgerRow.epoch, LedgerRow.seq)
    return (
        select(*columns)
        .select_from(LedgerRow)
        .join(Order, Order.id == LedgerRow.order_id)
        .where(
            LedgerRow.sale_id == sale.sale_id,
            place > tuple_(literal(sale.from_epoch), literal(sale.from_seq)),
            place <= tuple_(literal(sale.epoch), literal(sale.watermark)),
            LedgerRow.kind == "reserved",
            LedgerRow.quarantined.is_(None),
        )
        .order_by(LedgerRow.epoch, LedgerRow.seq)
    )


async def pass_over_purchase(session: AsyncSession, *, limit: int) -> str | None:
    """Count the first purchase that was not read as read, without reading it; returns where it is."""
    for sale in await moved_sales(session, limit=limit):
        row = (await session.execute(_reserved(sale, LedgerRow.epoch, LedgerRow.seq).limit(1))).one_or_none()
        if row is not None:
            await set_sale_position(session, sale.sale_id, epoch=row[0], seq=row[1])
            return f"sale {sale.sale_id} epoch {row[0]} seq {row[1]}"
    return None


async def set_sale_position(session: AsyncSession, sale_id: int, *, epoch: int, seq: int) -> None:
    """This sale's ledger was read up to there."""
    statement = insert(CollectorSale).values(sale_id=sale_id, epoch=epoch, seq=seq)
    await session.execute(
        statement.on_conflict_do_update(index_elements=[CollectorSale.sale_id], set_={"epoch": epoch, "seq": seq})
    )


async def events(
    session: AsyncSession, position: CollectorPosition, before: int, *, limit: int
) -> Sequence[tuple[OrderEvent, Order]]:
    """Events of orders that were not read, in the order of their transactions; all of those have ended."""
    query = (
        select(OrderEvent, Order)
        .join(Order, Order.id == OrderEvent.order_id)
        .where(_unread_events(position), OrderEvent.tx < _tx(before))
        .order_by(OrderEvent.tx, OrderEvent.id)
        .limit(limit)
    )
    return [(event, order) for event, order in await session.execute(query)]


async def pass_over_event(session: AsyncSession, position: CollectorPosition, before: int) -> int | None:
    """As `pass_over_purchase`, for what became of an order; returns the event's id."""
    query = (
        select(OrderEvent.tx, OrderEvent.id)
        .join(Order, Order.id == OrderEvent.order_id)
        .where(_unread_events(position), OrderEvent.tx < _tx(before))
        .order_by(OrderEvent.tx, OrderEvent.id)
        .limit(1)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    position.event_tx, position.event_id = row[0] or 0, row[1]
    return row[1]


async def pass_over_user(session: AsyncSession, position: CollectorPosition, before: int) -> str | None:
    """As `pass_over_purchase`, for an account; returns its id."""
    query = (
        select(User.tx, User.id)
        .where(_unread_users(position), User.tx < _tx(before))
        .order_by(User.tx, User.id)
        .limit(1)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    position.user_tx, position.user_id = row[0] or 0, row[1]
    return row[1]


async def pass_over_expiring(session: AsyncSession, position: CollectorPosition, *, notice: timedelta) -> UUID | None:
    """As `pass_over_purchase`, for a hold that is nearly over; returns the order's id."""
    query = _expiring(position, notice, Order.expires_at, Order.id).limit(1)
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    position.expires_at, position.expiring_id = row
    return position.expiring_id


async def registered(
    session: AsyncSession, position: CollectorPosition, before: int, *, limit: int
) -> Sequence[tuple[int, str, datetime]]:
    """Accounts that were made and not read, as (tx, id, made at)."""
    query = (
        select(User.tx, User.id, User.created_at)
        .where(_unread_users(position), User.tx < _tx(before))
        .order_by(User.tx, User.id)
        .limit(limit)
    )
    return [(tx or 0, user_id, at) for tx, user_id, at in await session.execute(query)]


async def skip_events(session: AsyncSession, position: CollectorPosition, before: int) -> None:
    """Count as read what nobody wants to hear of; nothing is written when there is nothing."""
    unread = select(OrderEvent.id).where(_unread_events(position), OrderEvent.tx < _tx(before)).exists()
    statement = update(CollectorPosition).where(CollectorPosition.id == ONLY_ROW, unread)
    await session.execute(statement.values(event_tx=_tx(before), event_id=0), execution_options=_UNSYNCHRONIZED)


async def skip_users(session: AsyncSession, position: CollectorPosition, before: int) -> None:
    """As `skip_events`, for accounts."""
    unread = select(User.id).where(_unread_users(position), User.tx < _tx(before)).exists()
    statement = update(CollectorPosition).where(CollectorPosition.id == ONLY_ROW, unread)
    await session.execute(statement.values(user_tx=_tx(before), user_id=""), execution_options=_UNSYNCHRONIZED)


async def expiring(
    session: AsyncSession, position: CollectorPosition, *, notice: timedelta, limit: int
) -> Sequence[Order]:
    """Orders whose hold is over within `notice` and was not called to mind, by Postgres time.

    A hold lasts twice the notice at least. So its end is far behind the position by the time that its row appears.
    """
    return (await session.scalars(_expiring(position, notice, Order).limit(limit))).all()


def _expiring(position: CollectorPosition, notice: timedelta, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .where(
            tuple_(Order.expires_at, Order.id) > tuple_(literal(position.expires_at), literal(position.expiring_id)),
            Order.expires_at > func.now(),
            Order.expires_at <= func.now() + notice,
            Order.expires_at - Order.recorded_at >= 2 * notice,
            Order.status == OrderStatus.RESERVED,
        )
        .order_by(Order.expires_at, Order.id)
    )


async def webhooks(session: AsyncSession) -> Sequence[tuple[int, object]]:
    """The webhooks that are told of what happens, as (id, kinds): whatever else a row holds is its own."""
    listening = (Webhook.disabled_at.is_(None), Webhook.deleted_at.is_(None))
    query = select(Webhook.id, Webhook.events).where(*listening).order_by(Webhook.id)
    return [(webhook_id, events) for webhook_id, events in await session.execute(query)]


async def with_address(session: AsyncSession, user_ids: Collection[str]) -> set[str]:
    """Those of these users who have an account with an address that mail can be sent to."""
    query = select(User.id).where(User.id.in_(user_ids), User.email.not_like(NO_MAIL), User.email.like("%@%"))
    return set(await session.scalars(query))


async def lines(session: AsyncSession, order_ids: Collection[UUID]) -> Mapping[UUID, list[BoughtLine]]:
    """The lines of these orders."""
    query = (
        select(OrderLine.order_id, OrderLine.product_id, Product.name, OrderLine.quantity, OrderLine.price_minor)
        .join(Product, Product.id == OrderLine.product_id)
        .where(OrderLine.order_id == any_(literal(list(order_ids), ARRAY(Uuid))))
        .order_by(OrderLine.order_id, OrderLine.line)
    )
    found: dict[UUID, list[BoughtLine]] = defaultdict(list)
    for order_id, product_id, name, quantity, price_minor in await session.execute(query):
        found[order_id].append(BoughtLine(product_id, name, quantity, price_minor))
    return found


async def add_notifications(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """Make those of these notifications that do not exist; returns their ids."""
    statement = insert(Notification).on_conflict_do_nothing().returning(Notification.id)
    return set(await session.scalars(statement, list(rows)))


async def add_deliveries(session: AsyncSession, rows: Sequence[Mapping[str, Any]], *, lasting: timedelta) -> None:
    """Make deliveries that are due now and are given up after `lasting`."""
    await session.execute(insert(Delivery).values(give_up_at=func.now() + lasting), list(rows))


_UNSYNCHRONIZED = {"synchronize_session": False}


def _tx(number: int) -> Any:
    return literal(number, Xid8)


def _unread_events(position: CollectorPosition) -> Any:
    read = tuple_(_tx(position.event_tx), literal(position.event_id))
    return OrderEvent.tx.is_not(None) & (tuple_(OrderEvent.tx, OrderEvent.id) > read)


def _unread_users(position: CollectorPosition) -> Any:
    read = tuple_(_tx(position.user_tx), literal(position.user_id))
    return User.tx.is_not(None) & (tuple_(User.tx, User.id) > read)
