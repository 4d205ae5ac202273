"""Every query about payments, refunds and the provider's events."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.models import Order, OrderStatus
from shop.payments.models import (
    Payment,
    PaymentStatus,
    ProviderCursor,
    ProviderEvent,
    Refund,
    RefundStatus,
    SupersededIntent,
)

UNFINISHED = (PaymentStatus.WANTED, PaymentStatus.OPEN)
# What became of an event that was passed, so that others need not wait for it: when it comes again, it is taken.
UNREADABLE, FAILED = "unreadable", "failed"
PASSED = (UNREADABLE, FAILED)
# The n-th try of something at the provider waits 2^n times the first pause, but no longer than this many times.
BACK_OFF_DOUBLINGS_MAX = 7
# Tries are counted up to here. Whoever is refused for weeks must not run out of the two bytes of the column.
TRIES_MAX = 10_000


async def find(session: AsyncSession, order_id: UUID) -> Payment | None:
    """The payment of an order."""
    return await session.get(Payment, order_id)


async def get(session: AsyncSession, order_id: UUID) -> Payment:
    """The payment of an order that has one."""
    return await session.get_one(Payment, order_id)


async def lock(session: AsyncSession, order_id: UUID) -> Payment | None:
    """The payment of an order, locked. Whoever locks both takes the payment before the order."""
    return await session.get(Payment, order_id, with_for_update=True, populate_existing=True)


async def get_locked(session: AsyncSession, order_id: UUID) -> Payment:
    """As `lock`, for an order that has a payment."""
    return await session.get_one(Payment, order_id, with_for_update=True, populate_existing=True)


async def lock_now(session: AsyncSession, order_id: UUID) -> tuple[Payment, datetime] | None:
    """As `lock`, with Postgres time at the start of this transaction."""
    query = select(Payment, func.now()).where(Payment.order_id == order_id).with_for_update()
    row = (await session.execute(query, execution_options={"populate_existing": True})).one_or_none()
    return None if row is None else (row[0], row[1])


async def lock_paying(session: AsyncSession, order_id: UUID) -> Payment | None:
    """The payment whose money this order has, its own or a late one's; locked."""
    query = select(Payment).where(Payment.paid_order_id == order_id).with_for_update()
    return (await session.scalars(query, execution_options={"populate_existing": True})).one_or_none()


async def add_wanted(session: AsyncSession, order: Order) -> Payment:
    """The payment of this order, made now unless it is there."""
    statement = (
        insert(Payment)
        .values(order_id=order.id, status=PaymentStatus.WANTED, amount_minor=order.total_minor, currency=order.currency)
        .on_conflict_do_nothing(index_elements=[Payment.order_id])
    )
    await session.execute(statement)
    return await get(session, order.id)


async def owner_of_intent(session: AsyncSession, intent_id: str) -> UUID | None:
    """The order whose payment has this intent, or had it; nobody else can become its owner before the commit."""
    number = func.hashtextextended(intent_id, 0)
    await session.execute(select(func.pg_advisory_xact_lock(number)))
    has_it = select(Payment.order_id).where(Payment.intent_id == intent_id)
    had_it = select(SupersededIntent.order_id).where(SupersededIntent.intent_id == intent_id)
    return (await session.execute(has_it.union_all(had_it))).scalars().first()


async def supersede(session: AsyncSession, payment: Payment) -> None:
    """Begin the next attempt of a locked payment whose intent is over."""
    session.add(SupersededIntent(intent_id=payment.intent_id, order_id=payment.order_id))
    payment.intent_id, payment.pay_url, payment.return_url, payment.start_keys = None, None, None, []
    payment.status, payment.ask_at = PaymentStatus.WANTED, func.now()
    payment.attempt += 1
    await session.flush()


async def count_taken_back(session: AsyncSession) -> int:
    """How many refunds the provider has taken back."""
    query = select(func.count()).where(Refund.status == RefundStatus.TAKEN_BACK)
    return (await session.execute(query)).scalar_one()


async def of_orders(session: AsyncSession, order_ids: Collection[UUID]) -> Sequence[tuple[Payment, Refund | None]]:
    """The payments of these orders and those whose money they have, with their refunds."""
    query = (
        select(Payment, Refund)
        .outerjoin(Refund, Refund.payment_id == Payment.order_id)
        .where(or_(Payment.order_id.in_(order_ids), Payment.paid_order_id.in_(order_ids)))
    )
    return [(payment, refund) for payment, refund in await session.execute(query)]


def versions_of_order() -> ColumnElement[int]:
    """The versions of the payments of an `Order`, its own and the one whose money it has, in a query of orders."""
    of_order = or_(Payment.order_id == Order.id, Payment.paid_order_id == Order.id)
    return func.coalesce(select(func.sum(Payment.version)).where(of_order).scalar_subquery(), 0)


async def add_refund(session: AsyncSession, payment: Payment, *, reason: str) -> Refund:
    """The refund of this payment, made now unless it is there."""
    statement = (
        insert(Refund)
        .values(
            payment_id=payment.order_id,
            status=RefundStatus.PENDING,
            amount_minor=payment.amount_minor,
            reason=reason,
        )
        .on_conflict_do_nothing(index_elements=[Refund.payment_id])
    )
    await session.execute(statement)
    return await session.get_one(Refund, payment.order_id, populate_existing=True)


async def find_refund(session: AsyncSession, payment_id: UUID) -> Refund | None:
    """The refund of a payment."""
    return await session.get(Refund, payment_id)


async def unmatched(session: AsyncSession, *, limit: int) -> Sequence[UUID]:
    """Payments whose money belongs to no order and no refund yet, in any order: those that cannot be settled now do not
    stand before the others for ever.
    """
    query = (
        select(Payment.order_id)
        .where(Payment.captured_at.is_not(None), Payment.settled_at.is_(None))
        .order_by(func.random())
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def lease_pending_refunds(session: AsyncSession, *, limit: int, pause_seconds: float) -> Sequence[UUID]:
    """Payments that wait for their refund to be asked for; nobody else gets them for a while that doubles."""
    pending = (
        select(Refund.payment_id)
        .where(Refund.status == RefundStatus.PENDING, Refund.ask_at <= func.now())
        .order_by(Refund.ask_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    leased = await session.scalars(
        update(Refund)
        .where(Refund.payment_id.in_(pending))
        .values(ask_at=func.now() + _pause(Refund.tries, pause_seconds), tries=_one_more(Refund.tries))
        .returning(Refund.payment_id),
        execution_options={"synchronize_session": False},
    )
    return leased.all()


async def lease_needless(session: AsyncSession, *, limit: int, pause_seconds: float) -> Sequence[UUID]:
    """Payments that can still be paid although their order is closed; nobody else gets them for a while."""
    closed = exists().where(Order.id == Payment.order_id, Order.status != OrderStatus.RESERVED)
    return await _lease(session, and_(Payment.status.in_(UNFINISHED), closed), limit, pause_seconds)


async def lease_without_intent(session: AsyncSession, *, limit: int, pause_seconds: float) -> Sequence[UUID]:
    """Payments of open orders whose intent was asked for, and of which no answer came; nobody else gets them."""
    reserved = exists().where(Order.id == Payment.order_id, Order.status == OrderStatus.RESERVED)
    aged = Payment.created_at <= func.now() - timedelta(seconds=pause_seconds)
    return await _lease(session, and_(Payment.status == PaymentStatus.WANTED, reserved, aged), limit, pause_seconds)


async def _lease(session: AsyncSession, which: ColumnElement[bool], limit: int, pause_seconds: float) -> Sequence[UUID]:
    due: Select[UUID] = (
        select(Payment.order_id)
        .where(which, Payment.ask_at <= func.now())
        .order_by(Payment.ask_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Payment)
        .where(Payment.order_id.in_(due))
        .values(ask_at=func.now() + _pause(Payment.tries, pause_seconds), tries=_one_more(Payment.tries))
        .returning(Payment.order_id)
    )
    return (await session.scalars(statement, execution_options={"synchronize_session": False})).all()


def _pause(tries: ColumnElement[int] | object, pause_seconds: float) -> ColumnElement[timedelta]:
    doublings = func.least(tries, BACK_OFF_DOUBLINGS_MAX)
    return func.make_interval(0, 0, 0, 0, 0, 0, pause_seconds * func.power(2, doublings))


def _one_more(tries: ColumnElement[int] | object) -> ColumnElement[int]:
    return func.least(tries, TRIES_MAX - 1) + 1


async def any_payment(session: AsyncSession) -> bool:
    """Whether there is anything that the provider may know of."""
    return (await session.execute(select(Payment.order_id).limit(1))).first() is not None


async def note_event(session: AsyncSession, *, event_id: str, kind: str, intent_id: str, outcome: str) -> bool:
    """Take note of an event; False when it was taken before. A second taker waits here for the first."""
    noted = {"kind": kind, "intent_id": intent_id, "outcome": outcome}
    passed_before = ProviderEvent.outcome.in_(() if outcome in PASSED else PASSED)
    statement = insert(ProviderEvent).values(id=event_id, **noted)
    statement = statement.on_conflict_do_update(index_elements=[ProviderEvent.id], set_=noted, where=passed_before)
    return (await session.execute(statement.returning(ProviderEvent.id))).scalar_one_or_none() is not None


async def set_outcome(session: AsyncSession, event_id: str, outcome: str) -> None:
    """What an event that was noted in this transaction has meant."""
    await session.execute(update(ProviderEvent).where(ProviderEvent.id == event_id).values(outcome=outcome))


async def known_events(session: AsyncSession, event_ids: Collection[str]) -> set[str]:
    """Those of these events that were taken."""
    return set(await session.scalars(select(ProviderEvent.id).where(ProviderEvent.id.in_(event_ids))))


async def cursor(session: AsyncSession) -> int:
    """Up to where the provider's list of events was read."""
    return (await session.execute(select(ProviderCursor.after))).scalar_one_or_none() or 0


async def move_cursor(session: AsyncSession, after: int) -> None:
    """The list was read up to here. It never goes back."""
    statement = insert(ProviderCursor).values(id=0, after=after)
    newer = statement.excluded.after > ProviderCursor.after
    await session.execute(
        statement.on_conflict_do_update(index_elements=[ProviderCursor.id], set_={"after": after}, where=newer)
    )
