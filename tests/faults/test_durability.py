"""A power cut takes the end of the append-only file: that costs no unit too many, and what it may cost is counted."""

import asyncio
import signal
from pathlib import Path

import pytest

from shop import metrics
from shop.embedded import ValkeyServer
from shop.sales.models import Sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd, recorded
from tests.faults.append_only_file import cut_power, end_of_last, killed_on_a_hanging_disk, size_of
from tests.harness import LOGINS, Shop, wait_until
from tests.processes import OwnShop, own_shop
from tests.recovery.losses import assert_kept, until_recovered

PROMISES_MAX = 5


async def sold_by_a_process_that_dies(own: OwnShop, sale: Sale, *, orders: int) -> set[str]:
    """Orders that an API process has promised before it was killed; no worker has recorded them."""
    through = own.through(await own.processes.start_api("api"))
    await through.until_loaded(sale)
    crowd = await Crowd(through, sale).run(buyers=orders, queues=1)
    await (await through.client()).aclose()
    own.processes.send("api", signal.SIGKILL)
    await own.processes.until_dead("api")
    return set(crowd.orders.values())


async def orders_of(shop: Shop, sale: Sale) -> set[str]:
    return set(await recorded(shop, sale))


async def test_what_a_power_cut_takes_is_counted_and_what_was_recorded_is_kept(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Postgres is ahead of Redis then: an acceptance may be lost, no recorded order and no unit (I4, faults 4, 6)."""
    valkey = ValkeyServer(tmp_path, appendfsync="everysec", users=LOGINS.lines)
    async with own_shop(fresh_settings, tmp_path, valkey=valkey) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=12)
            crowd = await Crowd(shop, sale).run(buyers=3)
            await shop.drained(sale)
            synced = size_of(valkey)
            await crowd.run(buyers=3)
            await shop.drained(sale)
        promised = await sold_by_a_process_that_dies(own, sale, orders=2)
        await crowd.run(buyers=1)  # A later event, of a process that lives: so the ones before are missed.
        cut_power(valkey, left=synced)
        await asyncio.to_thread(valkey.start)

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await crowd.run(buyers=12)
            await assert_kept(shop, sale, crowd.orders.values())
            lost = promised - await orders_of(shop, sale)

            async def shown() -> bool:
                return bool(metrics.PROMISES_LOST._value.get() >= len(lost))

            await wait_until(shown, reason="what may be lost is counted")
            row = await shop.row(sale)
            assert (len(lost), row.units_taken, row.held_back) == (2, 10, 2)


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_a_kill_while_the_disk_hangs_loses_nothing_if_each_promise_was_synced(
    fresh_settings: Settings, tmp_path: Path, appendfsync: str
) -> None:
    """`always` has written each promise when it is told; what `everysec` loses, its process knows (I6, faults 3, 4)."""
    valkey = ValkeyServer(tmp_path, appendfsync=appendfsync, users=LOGINS.lines)
    async with own_shop(fresh_settings, tmp_path, worker_here=True, valkey=valkey) as own:
        shop = own.shop
        sale = await shop.open_sale(units=200)
        crowd = await Crowd(shop, sale).run(buyers=5)
        written = size_of(valkey)
        with killed_on_a_hanging_disk(valkey):
            if appendfsync == "everysec":

                async def waits() -> bool:
                    await crowd.run(buyers=1)
                    return bool((await shop.redis.info("persistence"))["aof_pending_bio_fsync"])

                await wait_until(waits, reason="a sync waits for the disk")
            promised_before = len(crowd.orders)
            await crowd.run(buyers=PROMISES_MAX)

            async def written_on() -> bool:
                return size_of(valkey) > written

            await wait_until(written_on, reason="it writes on, at the latest 2 s after a sync began that does not end")
        assert len(crowd.orders) == promised_before + PROMISES_MAX
        await asyncio.to_thread(valkey.start)

        async def recovered() -> int | None:
            row = await shop.row(sale)
            return row.epoch if row.recovery >= 1 and row.alarm is None else None

        epoch = await wait_until(recovered, reason="the recovery is over")
        assert epoch == 1 or appendfsync == "everysec"
        await crowd.run(buyers=3)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_an_entry_of_which_only_half_was_written_is_no_entry(fresh_settings: Settings, tmp_path: Path) -> None:
    """The writes of a script are one: with their end all are gone, and who promised them knows (I6, faults 6)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=20)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await crowd.run(buyers=1)
        cut_power(own.valkey, left=end_of_last(own.valkey, b"XADD"))
        await asyncio.to_thread(own.valkey.start)

        await until_recovered(shop, sale, epoch=2)
        await crowd.run(buyers=3)
        await assert_kept(shop, sale, crowd.orders.values())
