"""Every row that tells of one order. Each list is bounded, and says whether there is more of it."""

from collections.abc import Collection, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import AdminEvent
from shop.database import Base
from shop.notifications.models import Delivery, Notification
from shop.orders.models import OrderEvent
from shop.payments.models import Payment, ProviderEvent, Refund
from shop.sales.incidents.models import RecoveryClaim
from shop.sales.models import LedgerPosition, LedgerRow, SaleEpoch

ROWS_MAX = 100

Row = TypeVar("Row", bound=Base)


async def _up_to_max(session: AsyncSession, query: Select[Row]) -> tuple[Sequence[Row], bool]:
    """The first rows of a query, and whether there are more."""
    found = (await session.scalars(query.limit(ROWS_MAX + 1))).all()
    return found[:ROWS_MAX], len(found) > ROWS_MAX


async def ledger_rows(
    session: AsyncSession, sale_id: int, order_id: UUID, positions: Collection[LedgerPosition]
) -> Sequence[LedgerRow]:
    """The entries of an order: those at these positions, and the one that took its units back."""
    mine = (LedgerRow.sale_id == sale_id, LedgerRow.order_id == order_id)
    made = select(LedgerRow).where(*mine, tuple_(LedgerRow.epoch, LedgerRow.seq).in_(positions)).limit(ROWS_MAX)
    # As in the partial index, which a parameter would hide from the planner.
    released = select(LedgerRow).where(*mine, literal_column("stock_ledger.kind = 'released'")).limit(ROWS_MAX)
    found = [*(await session.scalars(made)).all(), *(await session.scalars(released)).all()]
    return sorted(set(found), key=lambda row: (row.epoch, row.seq))


async def claims(session: AsyncSession, sale_id: int, order_id: UUID) -> tuple[Sequence[RecoveryClaim], bool]:
    """When this order was reported after a loss, once for each epoch that had promised it."""
    epochs = select(SaleEpoch.epoch).where(SaleEpoch.sale_id == sale_id)
    query = select(RecoveryClaim).where(
        RecoveryClaim.sale_id == sale_id, RecoveryClaim.epoch.in_(epochs), RecoveryClaim.order_id == order_id
    )
    return await _up_to_max(session, query.order_by(RecoveryClaim.epoch))


async def events(session: AsyncSession, order_id: UUID) -> tuple[Sequence[OrderEvent], bool]:
    """The moves of an order, in their order."""
    return await _up_to_max(session, select(OrderEvent).where(OrderEvent.order_id == order_id).order_by(OrderEvent.id))


async def payments(session: AsyncSession, order_id: UUID) -> Sequence[Payment]:
    """Its own payment, and the one whose money it has; mostly they are the same."""
    query = select(Payment).where(or_(Payment.order_id == order_id, Payment.paid_order_id == order_id)).limit(2)
    return (await session.scalars(query.order_by(Payment.created_at))).all()


async def refunds(session: AsyncSession, payment_ids: Collection[UUID]) -> Sequence[Refund]:
    """The refunds of these payments, one each at most."""
    query = select(Refund).where(Refund.payment_id.in_(payment_ids)).order_by(Refund.created_at)
    return (await session.scalars(query.limit(len(payment_ids)))).all()


async def provider_events(session: AsyncSession, intent_ids: Collection[str]) -> tuple[Sequence[ProviderEvent], bool]:
    """What the provider told of these intents, in the order of arrival."""
    query = select(ProviderEvent).where(ProviderEvent.intent_id.in_(intent_ids))
    return await _up_to_max(session, query.order_by(ProviderEvent.received_at, ProviderEvent.id))


async def notifications(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, Notification]:
    """Those of these notifications that were made and are still kept."""
    query = select(Notification).where(Notification.id.in_(ids)).limit(len(ids))
    return {each.id: each for each in await session.scalars(query)}


async def deliveries(session: AsyncSession, ids: Collection[UUID]) -> tuple[Sequence[Delivery], bool]:
    """The deliveries of these notifications."""
    return await _up_to_max(session, select(Delivery).where(Delivery.notification_id.in_(ids)).order_by(Delivery.id))


async def admin_events(session: AsyncSession, order_id: UUID) -> tuple[Sequence[AdminEvent], bool]:
    """What admins did about this order."""
    query = select(AdminEvent).where(AdminEvent.subject == "order", AdminEvent.subject_id == str(order_id))
    return await _up_to_max(session, query.order_by(AdminEvent.id))
