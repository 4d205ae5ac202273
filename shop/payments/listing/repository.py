"""Every query of the list of all payments. For each set of filters there is an index that has its rows in their order.

What a user has ordered is read whole, and so are the events that did not fit: each of those has rung an alarm.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.models import Order
from shop.paging import is_among, newest, newest_first, position_after
from shop.payments.listing.schemas import PaymentQuery
from shop.payments.models import MISMATCHES, Payment, PaymentStatus, ProviderEvent, Refund, RefundStatus


async def page(session: AsyncSession, asked: PaymentQuery) -> Sequence[Row[Payment, str, RefundStatus | None]]:
    """The payments of a page with their buyers and the states of their refunds, the newest first, and one more if there
    are more. Raises Invalid for an unknown cursor.
    """
    at = None
    if asked.starting_after is not None:
        at = await session.scalar(select(Payment.created_at).where(Payment.order_id == asked.starting_after))
    found = newest(_queries(asked), asked, position_after(asked.starting_after, at))
    query = (
        select(Payment, Order.user_id, Refund.status)
        .join(found, is_among(Payment.order_id, found))
        .join(Order, Order.id == Payment.order_id)
        .outerjoin(Refund, Refund.payment_id == Payment.order_id)
        .order_by(*newest_first(found))
    )
    return (await session.execute(query)).all()


def _queries(asked: PaymentQuery) -> list[Select[datetime, UUID]]:
    """Queries of (created_at, order_id), each of which one index answers in this order."""
    where = _conditions(asked)
    query = select(Payment.created_at, Payment.order_id).where(*where)
    if asked.user_id is not None:
        query = query.join(Order, Order.id == Payment.order_id).where(Order.user_id == asked.user_id)
    if asked.order_id or asked.user_id or asked.mismatch or asked.unsettled or asked.status:
        return [query]
    return [query.where(Payment.status == status) for status in PaymentStatus]


def _conditions(asked: PaymentQuery) -> list[ColumnElement[bool]]:
    equal = {Payment.order_id: asked.order_id, Payment.status: asked.status, Payment.currency: asked.currency}
    found = [column == value for column, value in equal.items() if value is not None]
    if asked.unsettled is not None:
        unsettled = Payment.captured_at.is_not(None) & Payment.settled_at.is_(None)
        found.append(unsettled if asked.unsettled else ~unsettled)
    if asked.mismatch:
        found.append(Payment.intent_id.in_(select(ProviderEvent.intent_id).where(MISMATCHES)))
    return found
