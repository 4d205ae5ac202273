"""The jobs that talk to the provider: read its own list of events, end needless intents, ask for refunds.

A webhook may be lost, late or doubled; the provider's list has every event, in order. Each job first takes a lease of
what it is going to do, in a short transaction, then asks without one, then records: a job that dies in between is
repeated, and every request has a key that makes a repeat harmless.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.database import Database, is_unavailable
from shop.errors import ProviderUnavailable
from shop.failure_isolation import Isolation
from shop.payments import repository
from shop.payments.contract import Intent, ProviderEvent, UnreadableEvent
from shop.payments.events import apply_answer, ingest, mark_done, mismatch, pass_over
from shop.payments.gateway import Gateway, ProviderRefused
from shop.payments.models import Payment, RefundStatus
from shop.settings import Settings

CONFLICT = 409  # it is captured, or over in another way

log = structlog.get_logger(__name__)


async def reconcile(database: Database, gateway: Gateway, settings: Settings) -> int:
    """Ingest the events that no webhook has brought; returns how many. Idle until there is a first payment.

    Raises ProviderUnavailable.
    """
    async with database.transaction() as session:
        if not await repository.any_payment(session):
            return 0
        after = await repository.cursor(session)
    ingested = 0
    for _ in range(settings.reconcile_pages_max):
        events = await gateway.events(after=after, limit=settings.reconcile_page_max)
        if not events:
            break
        async with database.transaction() as session:
            known = await repository.known_events(session, [event.id for event in events if event.id is not None])
        for event in events:
            if event.id not in known:
                ingested += await _ingest_or_pass(database, event)
        seqs = [event.seq for event in events if event.seq is not None]
        if not seqs:
            break  # None says where it stands: those that come behind it will.
        after = seqs[-1]
        async with database.transaction() as session:
            await repository.move_cursor(session, after)
    metrics.REFUNDS_TAKEN_BACK.set(await _count_taken_back(database))
    return ingested


async def _ingest_or_pass(database: Database, event: ProviderEvent | UnreadableEvent) -> bool:
    """Whether an event was ingested now. One that cannot be is noted, and the others are not asked to wait for it.

    Raises what says that Postgres is away: then every event waits.
    """
    if isinstance(event, UnreadableEvent):
        outcome, reason = repository.UNREADABLE, event.reason
    else:
        try:
            async with database.transaction() as session:
                return await ingest(session, event) != "repeated"
        except Exception as error:
            if is_unavailable(error):
                raise
            metrics.ITEM_FAILURES.labels("provider_events").inc()
            log.exception("provider_event_failed", event_id=event.id)
            outcome, reason = repository.FAILED, repr(error)[:200]
    async with database.transaction() as session:
        await pass_over(session, event, outcome, reason)
    return False


async def _count_taken_back(database: Database) -> int:
    async with database.transaction() as session:
        return await repository.count_taken_back(session)


async def end_needless(
    database: Database, gateway: Gateway, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Cancel the intents of orders that are closed, so that nobody pays for nothing; returns how many ended."""

    async def end(payment: Payment) -> Intent:
        intent_id = payment.intent_id or (await create(gateway, payment)).id
        return await cancel(gateway, intent_id)

    async with database.transaction() as session:
        needless = await repository.lease_needless(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    return await _ask_and_apply(database, needless, "cancel", end, isolation or Isolation("intents", settings))


async def ask_again(
    database: Database, gateway: Gateway, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Ask for intents whose answer was lost, so that their buyers can pay; returns how many are there now."""
    async with database.transaction() as session:
        wanted = await repository.lease_without_intent(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    ask = partial(create, gateway)
    return await _ask_and_apply(database, wanted, "create", ask, isolation or Isolation("intents", settings))


async def _ask_and_apply(
    database: Database,
    leased: Sequence[UUID],
    operation: str,
    ask: Callable[[Payment], Awaitable[Intent]],
    isolation: Isolation,
) -> int:
    """Ask the provider about each payment and apply what its intent says; what fails is asked again after its lease."""

    async def ask_one(order_id: UUID) -> bool:
        payment = await _read(database, order_id)
        try:
            intent = await ask(payment)
        except (ProviderUnavailable, ProviderRefused) as error:
            _not_done(operation, payment, error)
            return False
        async with database.transaction() as session:
            return await apply_answer(session, order_id, intent) == "applied"

    applied = [await isolation.attempt((operation, each), partial(ask_one, each), False) for each in leased]
    return sum(applied)


async def _read(database: Database, order_id: UUID) -> Payment:
    async with database.transaction() as session:
        return await repository.get(session, order_id)


async def send_refunds(
    database: Database, gateway: Gateway, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Ask for the refunds that are pending; returns how many are done. One that is refused stays, and is reported."""
    isolation = isolation or Isolation("refunds", settings)
    async with database.transaction() as session:
        pending = await repository.lease_pending_refunds(
            session, limit=settings.provider_batch_max, pause_seconds=settings.provider_pause_seconds
        )
    done = [await isolation.attempt(each, partial(_send_refund, database, gateway, each), False) for each in pending]
    return sum(done)


async def _send_refund(database: Database, gateway: Gateway, order_id: UUID) -> bool:
    payment = await _read(database, order_id)
    try:
        if payment.amount_minor:
            await _refund(gateway, payment)
    except (ProviderUnavailable, ProviderRefused) as error:
        _not_done("refund", payment, error)
        return False
    async with database.transaction() as session:
        return await _is_done(session, order_id)


async def _refund(gateway: Gateway, payment: Payment) -> None:
    """Raises ProviderRefused for an answer about other money than was asked for."""
    key = str(payment.order_id)
    refund = await gateway.refund(payment.intent_id or "", key=key, amount_minor=payment.amount_minor)
    if (refund.key, refund.amount_minor) != (key, payment.amount_minor):
        mismatch(payment.intent_id or "", payment.order_id)
        raise ProviderRefused(200, "another_refund")


async def _is_done(session: AsyncSession, order_id: UUID) -> bool:
    """Record that a refund which was pending is done; whether it was."""
    locked = await repository.lock_now(session, order_id)
    refund = await repository.find_refund(session, order_id)
    if locked is None or refund is None or refund.status != RefundStatus.PENDING:
        return False
    mark_done(session, locked[0], refund, locked[1])
    return True


async def create(gateway: Gateway, payment: Payment) -> Intent:
    """The intent of the present attempt to pay."""
    return await gateway.create(
        order_id=payment.order_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        attempt=payment.attempt,
        return_url=payment.return_url,
    )


async def cancel(gateway: Gateway, intent_id: str) -> Intent:
    """The intent, over, or captured if the buyer was faster."""
    try:
        return await gateway.cancel(intent_id)
    except ProviderRefused as refused:
        if refused.status != CONFLICT:
            raise
        intent = await gateway.read(intent_id)
        if intent.status == "open":
            raise
        return intent


def _not_done(operation: str, payment: Payment, error: Exception) -> None:
    if isinstance(error, ProviderRefused):
        metrics.PROVIDER_REFUSALS.labels(operation).inc()
        log.error("provider_refused", operation=operation, order_id=str(payment.order_id), reason=str(error))
    else:
        log.warning("provider_unavailable", operation=operation, order_id=str(payment.order_id), reason=str(error))
