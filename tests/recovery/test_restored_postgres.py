"""Postgres itself goes back in time: the ledger in Redis still has the orders that it has lost."""

from pathlib import Path

import pytest
from sqlalchemy import delete, update

from shop.audit.models import SaleAudit
from shop.orders.models import Order, OrderEvent, OrderLine
from shop.sales.incidents.models import Recovery, RecoveryAnswer, RecoveryClaim
from shop.sales.models import LedgerRow, Sale, SaleEpoch
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd
from tests.harness import Shop
from tests.processes import own_shop
from tests.recovery.losses import assert_kept, until_recovered

KEPT = 3
UNITS = 20


async def restore(shop: Shop, sale: Sale) -> None:
    """Make Postgres forget everything after the third event of the first epoch."""
    lost_rows = (LedgerRow.epoch > 1) | (LedgerRow.seq > KEPT)
    lost_orders = (Order.epoch > 1) | (Order.seq > KEPT)
    async with shop.database.transaction() as session:
        for table in (SaleAudit, RecoveryAnswer, RecoveryClaim, Recovery):
            await session.execute(delete(table))
        await session.execute(delete(OrderLine).where(OrderLine.order_id == Order.id, lost_orders))
        await session.execute(delete(OrderEvent).where(OrderEvent.order_id == Order.id, lost_orders))
        await session.execute(delete(Order).where(lost_orders))
        await session.execute(delete(LedgerRow).where(lost_rows))
        await session.execute(delete(SaleEpoch).where(SaleEpoch.epoch > 1))
        values = {"watermark": KEPT, "watermark_balance": UNITS - KEPT, "units_taken": KEPT, "held_back": 0}
        await session.execute(update(Sale).where(Sale.id == sale.id).values(epoch=1, recovery=0, **values))


@pytest.mark.parametrize("epoch", [1, 2])
async def test_a_postgres_that_was_restored_to_an_older_state_gets_its_orders_back(
    fresh_settings: Settings, tmp_path: Path, epoch: int
) -> None:
    """They are honoured like promises, also when the ledger is of an epoch that Postgres does not know any more."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=UNITS)
            crowd = await Crowd(shop, sale).run(buyers=6)
            await shop.drained(sale)
            if epoch == 2:
                await shop.redis.flushall()
                await until_recovered(shop, sale, epoch=2)
                await crowd.run(buyers=2)
                await shop.drained(sale)
        await restore(shop, sale)

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=epoch + 1)
            await assert_kept(shop, sale, crowd.orders.values())
            await crowd.run(buyers=5)
            await assert_kept(shop, sale, crowd.orders.values())


async def test_an_order_that_was_cancelled_and_forgotten_stays_cancelled(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The ledger knows that its units are back: nobody is made to hold them again (I8)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=UNITS)
            crowd = await Crowd(shop, sale).run(buyers=KEPT)
            await shop.drained(sale)
            await crowd.run(buyers=1)
            await shop.drained(sale)
            buyer, order_id = list(crowd.orders.items())[-1]
            cancelled = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(buyer))
            assert cancelled.status_code == 200
            await shop.drained(sale)
        await restore(shop, sale)

        async with running_worker(shop.settings):
            row = await until_recovered(shop, sale, epoch=2)
            assert row.units_taken == KEPT
            del crowd.orders[buyer]
            await assert_kept(shop, sale, crowd.orders.values())
