"""The jobs that talk to the provider: read its own list of events, end needless intents, ask for refunds.

A webhook may be lost, late or doubled; the provider's list has every event, in order. Each job first takes a lease of
what it is going to do, in a short transaction, then asks without one, then records: a job that dies in between is
repeated, and every request has a key that makes a repeat harmless.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog

from shop import metrics
from shop.database import Database
from shop.errors import ProviderUnavailable
from shop.payments import repository
from shop.payments.events import apply, take
from shop.payments.gateway import Gateway, Intent, ProviderRefused
from shop.payments.models import Payment, RefundStatus
from shop.sales.repository import database_time
from shop.settings import Settings

ALREADY_CAPTURED = "already_captured"

log = structlog.get_logger(__name__)


async def reconcile(database: Database, gateway: Gateway, settings: Settings) -> int:
    """Take the events that no webhook has brought; returns how many. Idle until there is a first payment.

    Raises ProviderUnavailable.
    """
    async with database.transaction() as session:
        if not await repository.any_payment(session):
            return 0
        after = await repository.cursor(session)
    taken = 0
    for _ in range(settings.reconcile_pages_max):
        events = await gateway.events(after=after, limit=settings.reconcile_page_max)
        if not events:
            break
        async with database.transaction() as session:
            known = await repository.known_events(session, [event.id for event in events])
        for event in events:
            if event.id not in known:
                async with database.transaction() as session:
                    taken += await take(session, event) != "repeated"
        after = events[-1].seq
        async with database.transaction() as session:
            await repository.move_cursor(session, after)
    return taken


async def end_needless(database: Database, gateway: Gateway, settings: Settings) -> int:
    """Cancel the intents of orders that are closed, so that nobody pays for nothing; returns how many ended."""

    async def end(payment: Payment) -> Intent:
        intent_id = payment.intent_id or (await _create(gateway, payment)).id
        return await _cancel(gateway, intent_id)

    async with database.transaction() as session:
        needless = await repository.lease_needless(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    return await _ask_and_apply(database, needless, "cancel", end)


async def ask_again(database: Database, gateway: Gateway, settings: Settings) -> int:
    """Ask for intents whose answer was lost, so that their buyers can pay; returns how many are there now."""
    async with database.transaction() as session:
        wanted = await repository.lease_without_intent(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    return await _ask_and_apply(database, wanted, "create", partial(_create, gateway))


async def _ask_and_apply(
    database: Database, payments: Sequence[Payment], operation: str, ask: Callable[[Payment], Awaitable[Intent]]
) -> int:
    """Ask the provider about each payment and take what its intent says; what fails is asked again after its lease."""
    applied = 0
    for payment in payments:
        try:
            intent = await ask(payment)
        except (ProviderUnavailable, ProviderRefused) as error:
            _not_done(operation, payment, error)
            continue
        async with database.transaction() as session:
            applied += await apply(session, intent) == "applied"
    return applied


async def send_refunds(database: Database, gateway: Gateway, settings: Settings) -> int:
    """Ask for the refunds that are pending; returns how many are done. One that is refused stays, and is reported."""
    async with database.transaction() as session:
        pending = await repository.lease_pending_refunds(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    done = 0
    for payment in pending:
        try:
            if payment.amount_minor:
                await gateway.refund(
                    payment.intent_id or "", key=str(payment.order_id), amount_minor=payment.amount_minor
                )
        except (ProviderUnavailable, ProviderRefused) as error:
            _not_done("refund", payment, error)
            continue
        async with database.transaction() as session:
            refund = await repository.find_refund(session, payment.order_id)
            if refund is not None and refund.status != RefundStatus.DONE:
                refund.status, refund.done_at = RefundStatus.DONE, await database_time(session)
                done += 1
    return done


async def _create(gateway: Gateway, payment: Payment) -> Intent:
    return await gateway.create(order_id=payment.order_id, amount_minor=payment.amount_minor, currency=payment.currency)


async def _cancel(gateway: Gateway, intent_id: str) -> Intent:
    """The intent, cancelled, or captured if the buyer was faster."""
    try:
        return await gateway.cancel(intent_id)
    except ProviderRefused as refused:
        if refused.code != ALREADY_CAPTURED:
            raise
        return await gateway.read(intent_id)


def _not_done(operation: str, payment: Payment, error: Exception) -> None:
    if isinstance(error, ProviderRefused):
        metrics.PROVIDER_REFUSALS.labels(operation).inc()
        log.error("provider_refused", operation=operation, order_id=str(payment.order_id), reason=str(error))
    else:
        log.warning("provider_unavailable", operation=operation, order_id=str(payment.order_id), reason=str(error))
