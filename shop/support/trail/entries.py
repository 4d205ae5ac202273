"""Rows as entries of a trail: what happened, when, and the facts that an operator looks for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from shop.admin_events import AdminEvent
from shop.ledger.events import LedgerEvent
from shop.notifications.models import Delivery, Notification
from shop.orders.models import Order, OrderEvent
from shop.payments.models import Payment, ProviderEvent, Refund
from shop.sales.incidents.models import RecoveryClaim
from shop.sales.models import LedgerRow
from shop.support.trail.schemas import Source, TrailEntry


def of_ledger(rows: Iterable[LedgerRow]) -> Iterator[TrailEntry]:
    """What the ledger did, as far as it is recorded."""
    for row in rows:
        yield _entry(
            row.at,
            Source.LEDGER,
            row.kind if row.quarantined is None else f"{row.kind}, quarantined",
            epoch=row.epoch,
            seq=row.seq,
            quantity=row.quantity,
            delta=row.delta,
            balance=row.balance,
            recorded=True,
        )


def of_stream(event: LedgerEvent, epoch: int) -> TrailEntry:
    """What the ledger did, and what is still on its way to Postgres."""
    return _entry(
        event.at,
        Source.LEDGER,
        event.kind,
        epoch=epoch,
        seq=event.seq,
        quantity=event.quantity,
        delta=event.delta,
        balance=event.balance,
        recorded=False,
    )


def of_claims(claims: Iterable[RecoveryClaim]) -> Iterator[TrailEntry]:
    """That it was reported after a loss, by whom, and what became of that."""
    for claim in claims:
        yield _entry(
            claim.created_at,
            Source.RECOVERY,
            "reported",
            by=claim.source,
            epoch=claim.epoch,
            seq=claim.seq,
            quantity=claim.quantity,
            outcome=claim.outcome,
        )


def of_order(order: Order, events: Iterable[OrderEvent]) -> Iterator[TrailEntry]:
    """Its row, its moves, and that its units are back."""
    yield _entry(order.recorded_at, Source.ORDER, "recorded", held_until=_text(order.expires_at))
    for event in events:
        yield _entry(event.created_at, Source.ORDER, event.status, by=event.moved_by, reason=event.reason)
    if order.released_at is not None:
        yield _entry(order.released_at, Source.ORDER, "released", quantity=order.quantity)


def of_payments(payments: Iterable[Payment]) -> Iterator[TrailEntry]:
    """That a payment was begun, that its money came, and whose the money is."""
    for payment in payments:
        name = str(payment.order_id)
        yield _entry(
            payment.created_at,
            Source.PAYMENT,
            "wanted",
            payment=name,
            status=payment.status,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            intent=payment.intent_id,
            tries=payment.tries,
        )
        if payment.captured_at is not None:
            yield _entry(payment.captured_at, Source.PAYMENT, "captured", payment=name)
        if payment.settled_at is not None:
            paid = None if payment.paid_order_id is None else str(payment.paid_order_id)
            yield _entry(payment.settled_at, Source.PAYMENT, "settled", payment=name, paid_order=paid)


def of_refunds(refunds: Iterable[Refund]) -> Iterator[TrailEntry]:
    """That money goes back, and that it did."""
    for refund in refunds:
        yield _entry(
            refund.created_at,
            Source.REFUND,
            "wanted",
            payment=str(refund.payment_id),
            status=refund.status,
            amount_minor=refund.amount_minor,
            reason=refund.reason,
            tries=refund.tries,
        )
        if refund.done_at is not None:
            yield _entry(refund.done_at, Source.REFUND, "done", payment=str(refund.payment_id))


def of_provider(events: Iterable[ProviderEvent]) -> Iterator[TrailEntry]:
    """What the payment provider told, and what the shop made of it."""
    for event in events:
        facts = {"id": event.id, "intent": event.intent_id, "outcome": event.outcome}
        yield _entry(event.received_at, Source.PROVIDER, event.kind, **facts)


def of_notifications(made: Mapping[UUID, Notification], deliveries: Sequence[Delivery]) -> Iterator[TrailEntry]:
    """What somebody was to be told, and what became of each delivery."""
    for notification in made.values():
        yield _entry(notification.created_at, Source.NOTIFICATION, notification.kind, id=str(notification.id))
    for delivery in deliveries:
        word = "delivered" if delivery.delivered_at else "dead" if delivery.dead_at else "pending"
        yield _entry(
            delivery.delivered_at or delivery.dead_at or delivery.created_at,
            Source.NOTIFICATION,
            word,
            of=made[delivery.notification_id].kind,
            delivery=delivery.id,
            sink=delivery.sink,
            webhook=delivery.webhook_id,
            tries=delivery.tries,
            last_error=delivery.last_error,
        )


def of_admins(events: Iterable[AdminEvent]) -> Iterator[TrailEntry]:
    """What admins did about it."""
    for event in events:
        facts = {"actor": event.actor_id, "address": event.address, "request": event.request_id}
        yield _entry(event.created_at, Source.ADMIN, event.action, **facts, details=event.details)


def _entry(at: datetime, source: Source, event: str, /, **facts: JsonValue) -> TrailEntry:
    return TrailEntry(at=at, source=source, event=event, facts=facts)


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
