"""What the provider refuses is tried for as long as it takes: for weeks, if need be."""

from sqlalchemy import update

from shop.database import Database
from shop.payments import repository
from shop.payments.models import Payment, Refund
from shop.payments.repository import TRIES_MAX
from tests.notifications.outbox import make_order

COLUMN_MAX = 2**15 - 1


async def test_a_try_that_fails_for_weeks_is_tried_again_and_counted_no_further(database: Database) -> None:
    """The count would overflow its column, and the statement that gives out what is due would fail for all."""
    order = await make_order(database)
    async with database.transaction() as session:
        payment = await repository.add_wanted(session, order)
        await repository.add_refund(session, payment, reason="a test")
        for kind in (Payment, Refund):
            await session.execute(update(kind).values(tries=COLUMN_MAX))

    async with database.transaction() as session:
        payments = await repository.lease_without_intent(session, limit=10, pause_seconds=0.0)
        refunds = await repository.lease_pending_refunds(session, limit=10, pause_seconds=0.0)
        refund = await repository.find_refund(session, order.id)
        payment = await repository.get(session, order.id)

    assert payments == refunds == [order.id]
    assert refund is not None
    assert payment.tries == refund.tries == TRIES_MAX
