"""What the provider tells, applied to payments and orders: each event once, and in any order the same end.

An event carries the intent as it was at that moment, and all that an intent tells can only grow: captured stays
captured, returned stays returned. So nothing depends on the order of arrival, nor on the kind of the event.
"""

from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.orders.life import By, move, note
from shop.orders.models import OrderStatus
from shop.payments import repository
from shop.payments.gateway import Intent, ProviderEvent
from shop.payments.models import Payment, PaymentStatus, RefundStatus

log = structlog.get_logger(__name__)


async def take(session: AsyncSession, event: ProviderEvent) -> str:
    """Apply an event, once; returns `applied`, `repeated`, `unknown_order` or `mismatch`, as it is recorded."""
    noted = await repository.note_event(
        session, event_id=event.id, kind=event.type, intent_id=event.data.id, outcome="applied"
    )
    if not noted:
        return "repeated"
    outcome = await apply(session, event.data)
    if outcome != "applied":
        await repository.set_outcome(session, event.id, outcome)
    metrics.PROVIDER_EVENTS.labels(outcome).inc()
    return outcome


async def apply(session: AsyncSession, intent: Intent) -> str:
    """Bring a payment to what its intent says; returns `applied`, `unknown_order` or `mismatch`.

    Where amount, currency or identity differ from what was asked for, the order stays as it is and somebody has to
    look: see `shop_payment_mismatches_total`.
    """
    order_id = _order_id(intent)
    locked = await repository.lock_now(session, order_id) if order_id else None
    if locked is None:
        return _alarm("unknown_order", intent)
    payment, now = locked
    if not _agrees(payment, intent):
        return _alarm("mismatch", intent)
    if payment.intent_id is None:
        payment.intent_id, payment.pay_url = intent.id, intent.pay_url
    if payment.status == PaymentStatus.WANTED:
        payment.status = PaymentStatus.OPEN
    if intent.status == "cancelled" and payment.status == PaymentStatus.OPEN:
        payment.status = PaymentStatus.CANCELLED
    with session.no_autoflush:  # What changes of the payment is written once, at the end.
        if intent.captured_minor:
            await _capture(session, payment, now)
        if intent.refunded_minor:
            await _returned(session, payment, now)
    return "applied"


def _order_id(intent: Intent) -> UUID | None:
    try:
        return UUID(intent.order_id)
    except ValueError:
        return None


def _agrees(payment: Payment, intent: Intent) -> bool:
    """Whether an intent is the one of this payment, and its money is all of it or none."""
    return (
        payment.intent_id in (None, intent.id)
        and payment.amount_minor == intent.amount_minor
        and payment.currency == intent.currency
        and intent.captured_minor in (0, payment.amount_minor)
        and intent.refunded_minor in (0, intent.captured_minor)
    )


def _alarm(outcome: str, intent: Intent) -> str:
    metrics.PAYMENT_MISMATCHES.labels(outcome).inc()
    log.error("payment_mismatch", outcome=outcome, intent_id=intent.id, order_id=intent.order_id[:64])
    return outcome


async def _capture(session: AsyncSession, payment: Payment, now: datetime) -> None:
    """The money is there: the order is paid if it still waits; else the settling job finds out whose the money is."""
    if payment.captured_at is not None:
        return
    payment.status, payment.captured_at = PaymentStatus.CAPTURED, now
    if await move(session, [payment.order_id], OrderStatus.PAID, by=By.PROVIDER, reason="the payment was captured"):
        payment.paid_order_id, payment.settled_at = payment.order_id, payment.captured_at


async def _returned(session: AsyncSession, payment: Payment, now: datetime) -> None:
    """The money went back, because we asked for it or for a reason of the provider's own: then the units are kept."""
    reason = "the provider returned the money"
    if payment.paid_order_id is None and await repository.find_refund(session, payment.order_id) is None:
        await note(session, payment.order_id, "money_returned", reason=reason)
    refund = await repository.add_refund(session, payment, reason=reason)
    if refund.status != RefundStatus.DONE:
        refund.status, refund.done_at = RefundStatus.DONE, now
    payment.settled_at = payment.settled_at or now
    if payment.paid_order_id is not None:
        await move(session, [payment.paid_order_id], OrderStatus.REFUNDED, by=By.PROVIDER, reason=reason, closes=False)
