"""The provider's events, ingested and applied to payments and orders: each once, and in any order the same end.

An event carries the intent as it was at that moment, and all that an intent tells can only grow: captured stays
captured, returned stays returned. So nothing depends on the order of arrival, nor on the kind of the event. Where a
provider tells later of less, somebody has to look.
"""

from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.orders.announcing import announce_after_commit
from shop.orders.life import By, move, note
from shop.orders.models import OrderStatus
from shop.payments import repository
from shop.payments.contract import Intent, ProviderEvent, UnreadableEvent
from shop.payments.models import Payment, PaymentStatus, Refund, RefundStatus

# Kinds of what happens before money goes back. One that is not younger than what was told is only late.
KINDS_BEFORE_REFUNDS = frozenset({"payment.created", "payment.failed", "payment.captured", "payment.cancelled"})
TAKEN_BACK = "refund_taken_back"
DECLINES_MAX = 1_000_000

log = structlog.get_logger(__name__)


async def ingest(session: AsyncSession, event: ProviderEvent) -> str:
    """Apply an event, once; returns `applied`, `repeated`, `superseded`, `unknown_order`, `mismatch` or
    `refund_taken_back`, as it is recorded.
    """
    noted = await repository.note_event(
        session, event_id=event.id, kind=event.type, intent_id=event.data.id, outcome="applied"
    )
    if not noted:
        return "repeated"
    outcome = await apply(session, event.data, event=event)
    if outcome != "applied":
        await repository.set_outcome(session, event.id, outcome)
    metrics.PROVIDER_EVENTS.labels(outcome).inc()
    return outcome


async def pass_over(session: AsyncSession, event: ProviderEvent | UnreadableEvent, outcome: str, reason: str) -> None:
    """Note an event that cannot be ingested, so that others do not wait for it. Noted once, as far as it has an id."""
    kind = event.type if isinstance(event, ProviderEvent) else repository.UNREADABLE
    intent_id = event.data.id if isinstance(event, ProviderEvent) else event.intent_id
    if event.id is None or await repository.note_event(
        session, event_id=event.id, kind=kind, intent_id=intent_id, outcome=outcome
    ):
        metrics.PROVIDER_EVENTS.labels(outcome).inc()
        log.error("provider_event_passed", outcome=outcome, event_id=event.id, intent_id=intent_id, reason=reason)


async def apply(session: AsyncSession, intent: Intent, *, event: ProviderEvent | None = None) -> str:
    """Bring a payment to what its intent says, in an event or in an answer; returns the outcome, see `ingest`.

    Where amount, currency or identity differ from what was asked for, the order stays as it is and somebody has to
    look: see `shop_payment_mismatches_total`. An intent that was superseded has nothing to say any more.
    """
    order_id = _order_id(intent)
    locked = await repository.lock_now(session, order_id) if order_id else None
    if locked is None:
        return _alarm("unknown_order", intent)
    payment, now = locked
    if payment.intent_id != intent.id:
        owner = await repository.owner_of_intent(session, intent.id)
        if owner == payment.order_id and not intent.captured_minor:
            return "superseded"
        if owner is not None or payment.intent_id is not None:
            return _alarm("mismatch", intent)
    news = event if event is not None and _is_newest(payment, event) else None
    if news and (refund := await _more_than_told(session, payment, intent)):
        _remember(payment, news)
        _lose(session, payment, refund, intent)
        return TAKEN_BACK
    if not _agrees(payment, intent) or (news and payment.told_seq is not None and not intent.captured_minor):
        return _alarm("mismatch", intent)
    before = _shown(payment)
    _progress(payment, intent)
    with session.no_autoflush:  # What changes of the payment is written once, at the end.
        if intent.captured_minor:
            await _capture(session, payment, now)
            if news:
                _remember(payment, news)
        if intent.refunded_minor:
            await _returned(session, payment, now, event)
        if _shown(payment) != before:
            show(session, payment)
    return "applied"


async def apply_answer(session: AsyncSession, order_id: UUID, intent: Intent) -> str:
    """Apply an intent that the provider has answered about this order; see `apply`."""
    return await apply(session, intent) if _order_id(intent) == order_id else _alarm("mismatch", intent)


def show(session: AsyncSession, payment: Payment) -> None:
    """Tell those who follow the order that what they see of its payment has changed."""
    payment.version += 1
    announce_after_commit(session, [payment.order_id])


def _shown(payment: Payment) -> tuple[object, ...]:
    return payment.status, payment.pay_url, payment.declines, payment.decline_code


def _order_id(intent: Intent) -> UUID | None:
    try:
        return UUID(intent.order_id)
    except ValueError:
        return None


def _agrees(payment: Payment, intent: Intent) -> bool:
    """Whether the money of an intent is what was asked for, and all of it or none."""
    return (
        payment.currency == intent.currency
        and payment.amount_minor == intent.amount_minor
        and intent.captured_minor in (0, payment.amount_minor)
        and intent.refunded_minor in (0, intent.captured_minor)
    )


def _alarm(outcome: str, intent: Intent) -> str:
    return mismatch(intent.id, intent.order_id[:64], outcome)


def mismatch(intent_id: str, order_id: object, outcome: str = "mismatch") -> str:
    """Ring: the provider told of money that is not what was asked for."""
    metrics.PAYMENT_MISMATCHES.labels(outcome).inc()
    log.error("payment_mismatch", outcome=outcome, intent_id=intent_id, order_id=str(order_id))
    return outcome


def _progress(payment: Payment, intent: Intent) -> None:
    """What an intent tells before there is money: that it is there, how often it was declined, that it is over."""
    if payment.intent_id is None:
        payment.intent_id, payment.pay_url = intent.id, intent.pay_url
    if payment.status == PaymentStatus.WANTED:
        payment.status = PaymentStatus.OPEN
    if intent.is_over and payment.status == PaymentStatus.OPEN:
        payment.status = PaymentStatus.CANCELLED
    declines = min(intent.attempts - bool(intent.captured_minor), DECLINES_MAX)
    if declines > payment.declines:
        payment.declines, payment.decline_code = declines, intent.decline_code


async def _capture(session: AsyncSession, payment: Payment, now: datetime) -> None:
    """The money is there: the order is paid if it still waits; else the matching job finds out whose the money is."""
    if payment.captured_at is not None:
        return
    payment.status, payment.captured_at = PaymentStatus.CAPTURED, now
    if await move(session, [payment.order_id], OrderStatus.PAID, by=By.PROVIDER, reason="the payment was captured"):
        payment.paid_order_id, payment.settled_at = payment.order_id, payment.captured_at


def _is_newest(payment: Payment, event: ProviderEvent) -> bool:
    """Whether nothing younger was told of the money of this payment."""
    if payment.told_seq is None or payment.told_at is None:
        return True
    is_younger = event.created_at > payment.told_at or event.type not in KINDS_BEFORE_REFUNDS
    return event.seq > payment.told_seq and is_younger


def _remember(payment: Payment, event: ProviderEvent) -> None:
    payment.told_seq, payment.told_at = event.seq, event.created_at
    payment.told_refunded_minor = event.data.refunded_minor


async def _returned(session: AsyncSession, payment: Payment, now: datetime, event: ProviderEvent | None) -> None:
    """The money went back, because we asked for it or for a reason of the provider's own: then the units are kept."""
    reason = "the provider returned the money"
    if payment.paid_order_id is None and await repository.find_refund(session, payment.order_id) is None:
        await note(session, payment.order_id, "money_returned", reason=reason)
    refund = await repository.add_refund(session, payment, reason=reason)
    refund.told = refund.told or event is not None
    if event is not None and payment.told_seq != event.seq and payment.told_refunded_minor != payment.amount_minor:
        _lose(session, payment, refund, event.data)  # A younger event was faster, and tells that it did not go back.
    elif event is not None or refund.status == RefundStatus.PENDING:
        mark_done(session, payment, refund, now)
    payment.settled_at = payment.settled_at or now
    if payment.paid_order_id is not None:
        await move(session, [payment.paid_order_id], OrderStatus.REFUNDED, by=By.PROVIDER, reason=reason, closes=False)


def mark_done(session: AsyncSession, payment: Payment, refund: Refund, now: datetime) -> None:
    """The provider says that the money of this payment, which is locked, is back."""
    if refund.status != RefundStatus.DONE:
        refund.status, refund.done_at = RefundStatus.DONE, now
        show(session, payment)


async def _more_than_told(session: AsyncSession, payment: Payment, intent: Intent) -> Refund | None:
    """The refund of which an event has told before, where this intent tells of less."""
    if payment.captured_at is None or intent.refunded_minor >= payment.amount_minor:
        return None
    refund = await repository.find_refund(session, payment.order_id)
    return refund if refund is not None and refund.told else None


def _lose(session: AsyncSession, payment: Payment, refund: Refund, intent: Intent) -> None:
    """The money did not go back after all. Nothing is done about it here: somebody has to look."""
    if refund.status != RefundStatus.TAKEN_BACK:
        refund.status = RefundStatus.TAKEN_BACK
        _alarm(TAKEN_BACK, intent)
        show(session, payment)
