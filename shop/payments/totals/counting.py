"""The job that brings the totals up to date."""

from shop.database import Database
from shop.payments.totals import repository

# Payments that one transaction counts; nobody else can change them meanwhile.
COUNTED_AT_ONCE = 2_000
BATCHES_MAX = 25


async def count_money(database: Database) -> int:
    """Bring the totals up to date, in bounded batches; returns how many payments were counted.

    Several workers share the payments: each takes those that nobody holds.
    """
    counted = 0
    for _ in range(BATCHES_MAX):
        async with database.transaction() as session:
            batch = await repository.count_batch(session, limit=COUNTED_AT_ONCE)
        counted += batch
        if batch < COUNTED_AT_ONCE:
            break
    return counted
