"""The lease of a recovery: two workers do not build the same ledger alternately, and a dead one hinders nobody."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from shop.database import Database
from shop.products import repository as products
from shop.sales import service
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import RecoveryStep
from shop.sales.schemas import SaleCreate
from tests.harness import TESTER, wait_until

EXPIRES_SECONDS = 2.0


async def sale_in_recovery(database: Database) -> int:
    starts_at = datetime.now(UTC)
    async with database.transaction() as session:
        product = await products.add(session, name="Product", price_minor=1, currency="EUR", stock=5)
        wish = SaleCreate(
            product_id=product.id, name="Sale", units=5, starts_at=starts_at, ends_at=starts_at + timedelta(hours=1)
        )
        sale = await service.create(session, TESTER, wish)
        await service.schedule(session, TESTER, sale.id)
        assert await recoveries.begin(session, sale.id, epoch=1, seen=0, reason="a test", renew=False)
    return sale.id


async def leases(database: Database, sale_id: int, worker_id: UUID, *, lease_seconds: float) -> bool:
    async with database.transaction() as session:
        return await recoveries.lease(session, sale_id, worker_id, lease_seconds=lease_seconds) is not None


async def test_a_recovery_belongs_to_one_worker_until_its_lease_is_over(database: Database) -> None:
    """The holder renews it; after its end whoever comes first has it, and the former holder finds that out."""
    sale_id, first, second = await sale_in_recovery(database), uuid4(), uuid4()

    assert await leases(database, sale_id, first, lease_seconds=60)
    assert not await leases(database, sale_id, second, lease_seconds=60)
    assert await leases(database, sale_id, first, lease_seconds=0.2)

    async def taken_over() -> bool:
        return await leases(database, sale_id, second, lease_seconds=60)

    await wait_until(taken_over, within=EXPIRES_SECONDS, reason="the lease is over")
    assert not await leases(database, sale_id, first, lease_seconds=60)


async def test_a_sale_is_in_one_recovery_at_a_time(database: Database) -> None:
    """Whoever finds the same loss a moment later, or looked before the epoch began, begins no other."""
    sale_id = await sale_in_recovery(database)

    async with database.transaction() as session:
        for epoch, seen in ((1, 0), (1, 1), (2, 1)):
            assert await recoveries.begin(session, sale_id, epoch=epoch, seen=seen, reason="again", renew=True) is None


async def test_the_next_step_is_written_by_one_of_two_who_have_done_it(database: Database) -> None:
    """Who was stopped meanwhile finds that the recovery is elsewhere, and sets nothing back."""
    sale_id = await sale_in_recovery(database)
    async with database.transaction() as session:
        seen = await recoveries.unfinished(session, sale_id)
    assert seen is not None

    written = []
    for step in (RecoveryStep.COMPARE, RecoveryStep.COMPARE, RecoveryStep.LIFT):
        async with database.transaction() as session:
            written.append(await recoveries.advance(session, seen, step))
    async with database.transaction() as session:
        now = await recoveries.unfinished(session, sale_id)
    assert (written, now.step if now else None) == ([True, False, False], RecoveryStep.COMPARE)
