"""The audit after a recovery: it counts what is held back and honoured, and looks at the epochs before."""

from pathlib import Path

from sqlalchemy import delete

from shop.ledger.keys import ledger_keys
from shop.sales.models import LedgerRow
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd
from tests.lua.ledgers import command
from tests.processes import own_shop
from tests.recovery.losses import assert_kept, until_recovered


async def test_the_audit_sees_a_wrong_number_held_back_and_a_gap_in_an_earlier_epoch(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """I1 and I2 hold over all epochs, and Redis must hold back what its events lead to."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=20)
            crowd = await Crowd(shop, sale).run(buyers=3)
            await shop.drained(sale)
        await crowd.run(buyers=2)
        await shop.redis.flushall()
        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await assert_kept(shop, sale, crowd.orders.values())
        report = await shop.audit(sale)
        assert (report.epoch, report.honoured, report.held, report.held_back) == (2, 2, 5, 0)

        await command(shop.redis, "HSET", ledger_keys(sale.id, 2).sale, "held_back", 1)
        assert [name for name, holds in (await shop.audit(sale)).invariants.items() if not holds] == ["I2"]
        await command(shop.redis, "HSET", ledger_keys(sale.id, 2).sale, "held_back", 0)
        async with shop.database.transaction() as session:
            await session.execute(delete(LedgerRow).where(LedgerRow.epoch == 1, LedgerRow.seq == 2))
        assert [name for name, holds in (await shop.audit(sale)).invariants.items() if not holds] == ["I1"]
