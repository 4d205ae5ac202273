"""Auditors that go on by themselves: no false alarm whatever fails, and none disturbs another."""

import asyncio
import signal
from pathlib import Path
from uuid import UUID

from prometheus_client import REGISTRY
from sqlalchemy import func, select

from shop.audit.live.auditor import Auditor
from shop.audit.models import AuditFinding
from shop.ledger.keys import ledger_keys
from shop.ledger.order_ids import keyed_order_id
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.demand import recover
from shop.sales.incidents.repository import Promise
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd, assert_each_recorded_once
from tests.harness import TESTER, Shop, new_user_id, outcome, wait_until
from tests.lua.ledgers import command
from tests.processes import copy_of, own_shop
from tests.recovery.audit.breaking import (
    AUDIT_SECONDS,
    BUYERS,
    execute,
    findings,
    position,
    sold,
    until_stopped,
    until_verified,
)
from tests.recovery.losses import assert_kept, until_recovered

BUSY = {"SHOP_AUDIT_INTERVAL_SECONDS": str(AUDIT_SECONDS)}


async def all_findings(shop: Shop) -> int:
    async with shop.database.transaction() as session:
        return int((await session.execute(select(func.count()).select_from(AuditFinding))).scalar_one())


async def test_no_audit_rings_for_nothing(fresh_settings: Settings, tmp_path: Path) -> None:
    """A rush with cancels, payments, changes, a killed worker, a loss and recoveries, under two busy auditors."""
    settings = copy_of(fresh_settings, audit_interval_seconds=AUDIT_SECONDS, audit_rows_max=20)
    async with own_shop(settings, tmp_path) as own:
        shop = own.shop
        own.processes.start_worker("first", **BUSY)
        own.processes.start_worker("second", **BUSY)
        sale = await shop.open_sale(units=150, stock=1_000, units_per_user=2)
        crowd = Crowd(shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=220, queues=8))
        for number, verb in enumerate(("stock", "pause", "resume", "stock")):
            await crowd.until(15 * (number + 1))
            await shop.change(sale, verb, {"delta": 5 - 2 * number} if verb == "stock" else None)
            await cancel_and_pay(shop, crowd)
        own.processes.send("first", signal.SIGKILL)
        own.processes.start_worker("third", **BUSY)
        await recover(shop.database, TESTER, sale.id)
        await until_recovered(shop, sale, epoch=1)
        await crowd.until(120)
        await shop.redis.flushall()
        await until_recovered(shop, sale, epoch=2, recovery=2)
        await buying
        row = await shop.drained(sale)

        await until_verified(shop, sale, seq=row.watermark, epoch=2)
        assert await all_findings(shop) == 0
        await assert_each_recorded_once(shop, sale, crowd.orders.values())


async def cancel_and_pay(shop: Shop, crowd: Crowd) -> None:
    """The first two buyers who have not done so yet: one cancels, one is told where to pay."""
    client = await shop.client()
    for number, (user_id, order_id) in enumerate(list(crowd.orders.items())[-4:]):
        verb = "cancel" if number % 2 else "payment"
        await client.post(f"/v1/orders/{order_id}/{verb}", headers=shop.headers(user_id, key=f"{verb}-{order_id}"))


async def test_what_a_recovery_holds_back_is_followed_until_it_is_on_sale_again(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """A promise is honoured from it, and after the window the rest is restored: no alarm for either."""
    settings = copy_of(fresh_settings, audit_interval_seconds=AUDIT_SECONDS, receipt_window_seconds=1)
    async with own_shop(settings, tmp_path) as own:
        shop, promised = own.shop, new_user_id()
        async with running_worker(shop.settings):
            sale = await sold(shop)
        order_id = UUID(bytes=keyed_order_id(sale.id, sale.salt, promised, "1"))
        async with shop.database.transaction() as session:
            promise = Promise(sale.id, 1, order_id, BUYERS + 4, promised, 1)
            await recoveries.add_claims(session, [promise], source="process")
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            row = await until_recovered(shop, sale, epoch=2)
            assert (row.held_back, row.watermark_balance) in {(3, 5), (2, 5)}

            async def restored() -> bool:
                row = await shop.row(sale)
                return (row.held_back, row.watermark_balance, row.units_taken) == (0, 7, 3)

            await wait_until(restored, reason="the units are on sale again")
            await until_verified(shop, sale, seq=2, epoch=2)
            assert ((await shop.row(sale)).alarm, await all_findings(shop)) == (None, 0)
            assert (await shop.audit(sale)).balanced


async def test_what_is_verified_stays_so_over_a_restart(fresh_settings: Settings, tmp_path: Path) -> None:
    """The next worker goes on where the last one was: rows behind it are the business of the full pass."""
    settings = copy_of(fresh_settings, audit_interval_seconds=AUDIT_SECONDS)
    async with own_shop(settings, tmp_path) as own:
        async with running_worker(own.shop.settings):
            sale = await sold(own.shop)
        before = await position(own.shop, sale)
        await execute(
            own.shop, sale, ["UPDATE stock_ledger SET balance = balance + 1 WHERE sale_id = :sale AND seq = 1"]
        )
        await own.shop.buy(sale)
        async with running_worker(own.shop.settings):
            after = await until_verified(own.shop, sale, seq=BUYERS + 2)

        assert before is not None
        assert (before.verified_seq, after.created_at) == (BUYERS + 1, before.created_at)
        assert await all_findings(own.shop) == 0
        assert not (await own.shop.audit(sale)).invariants["I2"]


async def test_an_auditor_that_was_stopped_and_thaws_changes_nothing(fresh_settings: Settings, tmp_path: Path) -> None:
    """What it has verified is verified further, and what it has found wrong is right again (faults 27)."""
    settings = copy_of(fresh_settings, audit_interval_seconds=AUDIT_SECONDS)
    async with own_shop(settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):  # One that stops may do so before the sale is in the directory.
            sale = await shop.open_sale(units=20)
            await until_verified(shop, sale, seq=0)
        await execute(shop, sale, ["DELETE FROM sale_audits WHERE sale_id = :sale"])
        own.processes.start_worker("verifier", SHOP_FAULT="stop_before_verified", **BUSY)
        await own.processes.until_stopped("verifier")
        own.processes.start_worker("finder", SHOP_FAULT="stop_before_finding", **BUSY)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await until_verified(shop, sale, seq=5)
        await command(shop.redis, "HINCRBY", ledger_keys(sale.id, 1).sale, "available", 1)
        await own.processes.until_stopped("finder")
        await command(shop.redis, "HINCRBY", ledger_keys(sale.id, 1).sale, "available", -1)
        broken = await position(shop, sale)
        assert broken is not None

        async with running_worker(shop.settings):

            async def good() -> bool:
                row = await position(shop, sale)
                return row is not None and row.checked_at > broken.checked_at

            await wait_until(good, reason="another auditor finds it good")
            for name, said in (("verifier", "audit_overtaken"), ("finder", "sale_has_moved_on")):
                own.processes.send(name, signal.SIGCONT)
                await own.processes.until_said(name, said)
            await crowd.run(buyers=3)
            await until_verified(shop, sale, seq=8)
            assert ((await shop.row(sale)).alarm, await all_findings(shop)) == (None, 0)
            await assert_kept(shop, sale, crowd.orders.values())


async def test_five_auditors_at_once_write_one_finding(shop: Shop) -> None:
    """All read the same rows at the same moment; the position moves once, the sale is stopped once (faults 27)."""
    sale = await sold(shop)
    auditors = [Auditor(shop.database, shop.redis, shop.settings, asyncio.Event()) for _ in range(5)]
    assert await shop.rush(sale, buyers=5) == {"reserved": 5}
    await shop.drained(sale)
    await asyncio.gather(*(auditor.step() for auditor in auditors))
    verified = await position(shop, sale)
    assert verified is not None
    assert verified.verified_seq == (await shop.row(sale)).watermark

    await execute(shop, sale, ["UPDATE sales SET units = units + 1 WHERE id = :sale"])
    for _ in range(3):
        await asyncio.gather(*(auditor.step() for auditor in auditors))

    await until_stopped(shop, sale)
    assert len(await findings(shop, sale)) == 1


async def test_the_last_pass_over_a_sale_that_is_settled_is_a_full_one(shop: Shop) -> None:
    """A row that was changed after it had been verified is found, and nothing else; the metrics forget the sale."""
    sale = await shop.open_sale(units=2)
    user_id = new_user_id()
    order_id = await shop.bought(sale, user_id)
    await until_verified(shop, sale, seq=1)
    assert metric(sale.id) is not None
    await execute(shop, sale, ["UPDATE stock_ledger SET quantity = 2 WHERE sale_id = :sale AND seq = 1"])
    assert (await shop.change(sale, "close")).status_code == 200

    async def ended() -> bool:
        return (await shop.row(sale)).status == "ended"

    await wait_until(ended, reason="the sale has ended")
    client = await shop.client()
    assert (await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))).status_code == 200

    async def found() -> bool:
        row = await position(shop, sale)
        return row is not None and row.finished_at is not None

    await wait_until(found, reason="the settled sale is audited")
    [finding] = await findings(shop, sale)
    assert [sentence[:2] for sentence in finding.violations] == ["I6"]
    row = await shop.row(sale)
    assert (row.status, row.stopped_at) == ("settled", None)

    async def forgotten() -> bool:
        return metric(sale.id) is None

    await wait_until(forgotten, reason="the metrics forget the sale")
    assert outcome(await shop.buy(sale)) in {"sale_ended", "not_found"}


def metric(sale_id: int) -> float | None:
    """The audit's lag of a sale, as the metrics have it."""
    return REGISTRY.get_sample_value("shop_audit_lag_events", {"sale": str(sale_id)})
