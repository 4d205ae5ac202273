"""A sale that the audit has stopped: only an operator sets it right. A sale that has gone on is not stopped."""

import pytest

from shop.audit.live.snapshot import take_snapshot
from shop.audit.live.stop_sale import stop_sale
from shop.database import UNAVAILABLE_ERRORS, Database
from shop.ledger.client import read_state
from shop.ledger.keys import ledger_keys
from shop.sales.incidents.demand import demand_recovery, recover
from tests.harness import TESTER, Shop, wait_until
from tests.lua.ledgers import command
from tests.recovery.audit.breaking import execute, findings, sold, until_stopped, until_verified
from tests.recovery.losses import until_recovered, until_sold


@pytest.mark.parametrize("where", ["redis", "postgres"])
async def test_an_operator_puts_a_stopped_sale_right_in_a_new_epoch(shop: Shop, where: str) -> None:
    """The units are counted from the rows; the finding stays as it was written, and the new ledger is verified."""
    sale = await sold(shop)
    if where == "redis":
        await command(shop.redis, "HINCRBY", ledger_keys(sale.id, 1).sale, "available", 3)
    else:
        await execute(shop, sale, ["UPDATE sales SET units_taken = units_taken - 1 WHERE id = :sale"])
    await until_stopped(shop, sale)

    await recover(shop.database, TESTER, sale.id)
    row = await until_recovered(shop, sale, epoch=2)

    assert (row.stopped_at, row.units_taken, row.watermark_balance, row.held_back) == (None, 2, 8, 0)
    await until_sold(shop, sale)
    await until_verified(shop, sale, seq=1, epoch=2)
    assert (await shop.audit(sale)).balanced
    assert len(await findings(shop, sale)) == 1


async def test_nothing_but_an_operator_recovers_a_stopped_sale(shop: Shop) -> None:
    """Whoever finds that the ledger is not as it should be asks in vain; the evidence stays as it is."""
    sale = await sold(shop)
    await execute(shop, sale, ["UPDATE sales SET units_taken = units_taken - 1 WHERE id = :sale"])
    row = await until_stopped(shop, sale)

    assert not await demand_recovery(shop.database, shop.redis, row, "a test", may_load=True)
    assert ((await shop.row(sale)).recovery, (await shop.row(sale)).stopped_at) == (0, row.stopped_at)


async def test_the_fence_of_a_stopped_sale_is_set_again_when_it_is_gone(shop: Shop) -> None:
    """Whoever was to set it may have died, and Redis may come back as it was before: the controller sees to it."""
    sale = await sold(shop)
    await execute(shop, sale, ["UPDATE sales SET units = units + 1 WHERE id = :sale"])
    await until_stopped(shop, sale)
    await command(shop.redis, "HSET", ledger_keys(sale.id, 1).sale, "epoch", 1)

    async def fenced() -> bool:
        state = await read_state(shop.redis, sale.id, 1)
        return state is not None and state.epoch == "fenced.1"

    await wait_until(fenced, reason="the ledger is fenced again")
    assert (await shop.row(sale)).recovery == 0


async def test_a_ledger_is_fenced_even_when_the_finding_cannot_be_recorded(shop: Shop) -> None:
    """Postgres is away: nobody buys until it is back, and then the ledger is compared before it sells again."""
    sale = await sold(shop)
    found = await take_snapshot(shop.database, shop.redis, sale.id, shop.settings)
    assert found is not None
    nowhere = shop.settings.model_copy(update={"database_url": "postgresql+asyncpg://shop@127.0.0.1:1/shop"})
    away = Database(nowhere, application_name="shop-tests")

    with pytest.raises(UNAVAILABLE_ERRORS):
        await stop_sale(away, shop.redis, found, shop.settings)

    state = await read_state(shop.redis, sale.id, 1)
    assert state is not None
    assert state.epoch == "fenced.1"
    await until_recovered(shop, sale, epoch=1)
    assert await findings(shop, sale) == []


async def test_a_sale_that_has_gone_on_since_the_snapshot_is_not_stopped(shop: Shop) -> None:
    """In another recovery or after a later good snapshot, what was seen is no reason any more."""
    sale = await sold(shop)
    found = await take_snapshot(shop.database, shop.redis, sale.id, shop.settings)
    assert found is not None
    await until_sold(shop, sale)
    await until_verified(shop, sale, seq=5)

    async def later() -> bool:
        newer = await until_verified(shop, sale, seq=5)
        return newer.checked_at > found.at

    await wait_until(later, reason="a later snapshot was good")
    assert not await stop_sale(shop.database, shop.redis, found, shop.settings)
    await recover(shop.database, TESTER, sale.id)
    await until_recovered(shop, sale, epoch=1)
    assert not await stop_sale(shop.database, shop.redis, found, shop.settings)
    assert ((await shop.row(sale)).stopped_at, await findings(shop, sale)) == (None, [])
