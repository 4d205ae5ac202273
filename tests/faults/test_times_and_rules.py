"""Clocks that jump, scripts of two releases at once, a drain that stands still, and a stream that was cut too far."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from shop.ledger import client as ledger
from shop.ledger.keys import ledger_keys
from shop.local import environment_of
from shop.orders.models import Order, OrderStatus
from shop.sales.models import Sale
from shop.settings import Settings
from shop.stopping import cancel_and_wait
from shop.worker import running_worker
from tests.crowd import Crowd, assert_each_recorded_once
from tests.harness import DEADLINE_SECONDS, LOGINS, Shop, as_user, new_user_id, outcome, wait_until
from tests.ports import unused_port
from tests.processes import OwnShop, copy_of, own_shop
from tests.recovery.losses import assert_kept, until_recovered
from tests.source_tree import ROOT

HOUR_MS = 3_600_000
BACKLOG_MAX = 12
START_SECONDS = 40.0  # of an interpreter that has imported nothing yet
WORKERS = 5
AUDIT_SECONDS = 0.02  # between two audits of one auditor


async def statuses(shop: Shop, sale: Sale) -> set[str]:
    """What has become of the orders."""
    async with shop.database.transaction() as session:
        return set((await session.execute(select(Order.status).where(Order.sale_id == sale.id))).scalars())


async def jump(shop: Shop, sale: Sale, skew_ms: int) -> None:
    """Let the ledger's clock be so much ahead of the true time."""
    await ledger.command(shop.redis, "HSET", ledger_keys(sale.id, 1).sale, "skew_ms", skew_ms)


@pytest.mark.parametrize(("jump_ms", "told"), [(-HOUR_MS, "sale_not_started"), (HOUR_MS, "reserved")])
async def test_a_clock_that_jumps_by_an_hour_sells_nothing_outside_of_the_window_and_ends_no_hold(
    shop: Shop, jump_ms: int, told: str
) -> None:
    """The window is the ledger's time; holds are Postgres time and do not notice (I10, faults 19)."""
    sale = await shop.open_sale(units=10, starts_in=-60, lasts=2 * 3_600, hold_seconds=1_800)
    crowd = await Crowd(shop, sale).run(buyers=3)
    await shop.drained(sale)
    await jump(shop, sale, jump_ms)

    answers = [await crowd.once(new_user_id()) for _ in range(3)]
    assert set(answers) == {told}
    winner = next(iter(crowd.orders))
    assert await crowd.once(winner) == "replayed"
    await jump(shop, sale, 0)
    await crowd.run(buyers=2)
    await assert_each_recorded_once(shop, sale, crowd.orders.values())
    assert await statuses(shop, sale) == {OrderStatus.RESERVED}


async def test_a_clock_that_jumps_beyond_the_end_ends_the_sale_and_every_unit_is_somewhere(shop: Shop) -> None:
    """Nothing is sold after the end, by the only clock that counts, and holds run on (I3, I10, faults 19)."""
    sale = await shop.open_sale(units=10, hold_seconds=1_800)
    crowd = await Crowd(shop, sale).run(buyers=3)
    await shop.drained(sale)
    await jump(shop, sale, 2 * HOUR_MS)
    assert await crowd.once(new_user_id()) == "sale_ended"

    async def ended() -> bool:
        return (await shop.row(sale)).status == "ended"

    await wait_until(ended, reason="the sale has ended")
    await jump(shop, sale, 0)
    assert await crowd.once(new_user_id()) == "sale_ended"
    await assert_each_recorded_once(shop, sale, crowd.orders.values())
    assert ((await shop.row(sale)).units, await statuses(shop, sale)) == (3, {OrderStatus.RESERVED})


@contextmanager
def another_release(own: OwnShop, directory: Path) -> Iterator[tuple[str, str]]:
    """An API of a release whose `reserve.lua` is another one; its address, and the source of that script."""
    release = directory / "release"
    shutil.copytree(ROOT / "shop", release / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "lua", release / "lua")
    (release / "migrations").symlink_to(ROOT / "migrations")
    script = release / "lua" / "reserve.lua"
    script.write_text(script.read_text() + "-- the next release\n")
    settings = copy_of(own.shop.settings, api_port=unused_port())
    environment = {
        **os.environ,
        **environment_of(as_user(settings, LOGINS.api_url)),
        "PYTHONPATH": str(release),
        "SHOP_METRICS_PORT": "0",
    }
    with (directory / "release.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shop", "api"], cwd=release, env=environment, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{settings.api_port}", script.read_text()
    finally:
        process.kill()
        process.wait()


async def until_told(shop: Shop, sale: Sale, words: set[str], *, within: float = DEADLINE_SECONDS) -> str:
    """Wait until a purchase is answered with one of these."""

    async def told() -> str | None:
        try:
            answer = outcome(await shop.buy(sale, quantity=9_999))
        except httpx.TransportError:
            return None
        return answer if answer in words else None

    word: str = await wait_until(told, within=within, reason=f"one of {words} is told")
    return word


async def test_of_two_releases_at_once_the_one_whose_scripts_nobody_loaded_sells_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Then its worker comes and loads them: both sell from one ledger, together as many as there are (faults 23)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=30)
        with another_release(own, tmp_path) as (address, source):
            other = own.through(address)
            await until_told(other, sale, {"not_ready"}, within=START_SECONDS)
            crowd, theirs = await Crowd(own.shop, sale).run(buyers=5), Crowd(other, sale)
            assert {await theirs.once(new_user_id()) for _ in range(3)} == {"not_ready"}

            await own.shop.redis.script_load(source)
            await until_told(other, sale, {"over_limit", "not_enough_units"})
            await asyncio.gather(crowd.run(buyers=20), theirs.run(buyers=20))
            await (await other.client()).aclose()
        assert (len(crowd.orders) + len(theirs.orders), bool(theirs.orders)) == (30, True)
        await assert_each_recorded_once(own.shop, sale, [*crowd.orders.values(), *theirs.orders.values()])


async def test_a_sale_whose_drain_stands_still_is_refused_at_its_bound_and_goes_on_with_the_drain(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The stream does not grow for ever: 503 and nothing was done, until a worker records it (I9, faults 15, 28)."""
    async with own_shop(copy_of(fresh_settings, backlog_max=BACKLOG_MAX), tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=30)
        crowd = Crowd(shop, sale)
        answers = [await crowd.once(new_user_id()) for _ in range(BACKLOG_MAX + 5)]
        assert answers == ["reserved"] * BACKLOG_MAX + ["overloaded"] * 5
        assert await crowd.once(next(iter(crowd.orders))) == "replayed"

        async with running_worker(shop.settings):
            await crowd.run(buyers=30)
            assert (len(crowd.orders), crowd.finals["sold_out"]) == (30, 12)
            await assert_each_recorded_once(shop, sale, crowd.orders.values())


async def test_a_stream_that_was_trimmed_before_it_was_recorded_costs_no_order(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The entry at the watermark is missing, so it is recovered; the orders are in the ledger still (faults 29)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=20)
            crowd = await Crowd(shop, sale).run(buyers=3)
            await shop.drained(sale)
        await crowd.run(buyers=6)
        await shop.redis.xtrim(ledger_keys(sale.id, 1).stream, minid="8-0", approximate=False)

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await crowd.run(buyers=3)
            await assert_kept(shop, sale, crowd.orders.values())


async def test_five_workers_and_two_auditors_at_once_repair_a_sale_once(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Each step has one winner; the auditors report, and set nothing (I1-I6, faults 24, 27)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        for number in range(WORKERS):
            # Together they may have fewer connections than the tests' Postgres has.
            own.processes.start_worker(f"worker-{number}", SHOP_WORKER_POOL_MAX="4")
        sale = await shop.open_sale(units=60)
        crowd = Crowd(shop, sale)
        async with auditing(shop, sale), auditing(shop, sale):
            buying = asyncio.create_task(crowd.run(buyers=40, queues=4))
            await crowd.until(10)
            await shop.redis.flushall()
            await until_recovered(shop, sale, epoch=2)
            await buying
        assert len(crowd.orders) == 40
        await assert_kept(shop, sale, crowd.orders.values())
        assert (await shop.row(sale)).recovery == 1


@asynccontextmanager
async def auditing(shop: Shop, sale: Sale) -> AsyncIterator[None]:
    """Within it the sale is audited again and again."""

    async def audit() -> None:
        while True:
            await shop.audit(sale)
            await asyncio.sleep(AUDIT_SECONDS)

    task = asyncio.create_task(audit())
    try:
        yield
        assert not task.done()
    finally:
        await cancel_and_wait([task])  # redis-py can swallow a cancellation
