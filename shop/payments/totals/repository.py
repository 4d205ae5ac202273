"""Every query of the money's totals.

The worker counts payments into a row for each currency. A payment remembers as what it was counted, and is marked
when it may be something else: then the totals lack the difference, which the report adds. The mark is set with the
change, and taken away with the new totals, in one transaction each: whoever sees one sees the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Integer, Select, and_, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.errors import NotReady
from shop.orders.models import Order, OrderStatus
from shop.payments.models import MoneyTotal, Payment, Refund, RefundStatus

# Payments that are still to be counted, and that a report counts by itself: a few tenths of a second.
UNCOUNTED_MAX = 20_000
RETRY_SECONDS = 5.0
# What `Payment.counted` says, a bit each, the first the lowest; above them whether the payment breaks I11 alone.
SUMS = ("captured", "paid", "refunded", "refund_pending", "refund_taken_back", "unsettled")


@dataclass(frozen=True)
class Money:
    """The money of one currency in minor units (I11: captured = paid + refunded + pending + taken back + unsettled)."""

    currency: str
    captured: int
    paid: int
    refunded: int
    refund_pending: int
    refund_taken_back: int
    unsettled: int
    wrong_payments: int


async def money(session: AsyncSession) -> list[Money]:
    """Sum the money of each currency by where it is, in one statement, and count the payments that break I11 alone.

    Raises NotReady while more payments are to be counted than a report can count.
    """
    uncounted = _differences(_marked(limit=UNCOUNTED_MAX + 1))
    totals = select(*MoneyTotal.__table__.columns, literal(0).label("uncounted"))
    both = totals.union_all(uncounted).subquery()
    sums = [func.sum(column) for column in both.columns if column.name != "currency"]
    found = await session.execute(select(both.c.currency, *sums).group_by(both.c.currency).order_by(both.c.currency))
    rows = [(currency, [int(each) for each in amounts]) for currency, *amounts in found]
    if sum(amounts[-1] for _, amounts in rows) > UNCOUNTED_MAX:
        raise NotReady("Too many payments wait to be counted by the worker", retry_after=RETRY_SECONDS)
    return [Money(currency, *amounts[:-1]) for currency, amounts in rows]


async def count_batch(session: AsyncSession, *, limit: int) -> int:
    """Count so many marked payments in this transaction; returns how many there were."""
    marked = select(Payment.order_id).where(Payment.recount).order_by(Payment.counted, Payment.order_id).limit(limit)
    order_ids = (await session.scalars(marked.with_for_update(skip_locked=True))).all()
    # They are locked, and whoever changes their money marks them before the commit: each query here sees the same.
    these = Payment.order_id.in_(order_ids)
    # With a limit, Postgres looks up what belongs to a payment once, and not for each sum.
    lacking = await session.execute(_differences(_payments().where(these).limit(limit).subquery()))
    for row in sorted(lacking.mappings(), key=itemgetter("currency")):  # two workers lock the totals in one order
        await _add(session, {name: each for name, each in row.items() if name != "uncounted"})
    await session.execute(
        update(Payment).where(these).values(counted=_standing(), recount=False),
        execution_options={"synchronize_session": False},
    )
    return len(order_ids)


async def _add(session: AsyncSession, more: Mapping[str, Any]) -> None:
    columns = MoneyTotal.__table__.columns
    sums = {name: columns[name] + each for name, each in more.items() if name != "currency"}
    statement = insert(MoneyTotal).values(more)
    await session.execute(statement.on_conflict_do_update(index_elements=[MoneyTotal.currency], set_=sums))


def _marked(*, limit: int) -> FromClause:
    """The first payments that are to be counted. Their own index is the only one that has this order."""
    return _payments().where(Payment.recount).order_by(Payment.counted, Payment.order_id).limit(limit).subquery()


def _payments() -> Select[str, int, int, int]:
    return select(
        Payment.currency,
        Payment.amount_minor,
        func.coalesce(Payment.counted, 0).label("counted"),
        _standing().label("standing"),
    )


def _differences(payments: FromClause) -> Select[Any]:
    """By currency, what the totals lack of these payments, as the columns of the totals, and how many they are."""

    def more(n: int) -> ColumnElement[int]:
        now, then = (payments.c[name].bitwise_rshift(n).bitwise_and(1) for name in ("standing", "counted"))
        return now - then

    sums = [func.sum(payments.c.amount_minor * more(n)).label(f"{name}_minor") for n, name in enumerate(SUMS)]
    wrong = func.sum(more(len(SUMS))).label("wrong_payments")
    return select(payments.c.currency, *sums, wrong, func.count().label("uncounted")).group_by(payments.c.currency)


def _standing() -> ColumnElement[int]:
    """Where the money of a payment is, by its rows.

    What belongs to it is looked up for each one, so that no plan reads the orders of others.
    """
    of_payment = select(Refund).where(Refund.payment_id == Payment.order_id)
    refund_status = of_payment.with_only_columns(Refund.status).scalar_subquery()
    refund_minor = of_payment.with_only_columns(Refund.amount_minor).scalar_subquery()
    order_status = select(Order.status).where(Order.id == Payment.paid_order_id).scalar_subquery()
    captured, has_refund = Payment.captured_at.is_not(None), refund_status.is_not(None)
    pays = and_(Payment.paid_order_id.is_not(None), ~has_refund)
    wrong = or_(
        and_(pays, order_status != OrderStatus.PAID),
        and_(has_refund, func.coalesce(order_status == OrderStatus.PAID, False)),
        and_(has_refund, or_(~captured, refund_minor != Payment.amount_minor)),
        and_(Payment.settled_at.is_not(None), Payment.paid_order_id.is_(None), ~has_refund),
    )
    parts = (
        captured,
        pays,
        and_(has_refund, refund_status == RefundStatus.DONE),
        and_(has_refund, refund_status == RefundStatus.PENDING),
        and_(has_refund, refund_status == RefundStatus.TAKEN_BACK),
        and_(captured, Payment.settled_at.is_(None), ~has_refund),
        wrong,
    )
    bits = [func.coalesce(part, False).cast(Integer) * (1 << n) for n, part in enumerate(parts)]
    return sum(bits[1:], start=bits[0])
