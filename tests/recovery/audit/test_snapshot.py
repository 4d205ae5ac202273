"""What the audit leaves to others: entries that the persister refuses, and ledgers that a recovery replaces."""

import asyncio
from collections.abc import Sequence

import pytest
import redis.asyncio as aioredis

from shop.audit.live.auditor import Auditor
from shop.audit.live.snapshot import take_snapshot
from shop.audit.live.stop_sale import stop_sale
from shop.database import Database
from shop.ledger.keys import ledger_keys
from shop.orders import repository as orders
from shop.sales import service
from shop.sales.controller import Controller
from shop.sales.models import Sale, SaleStatus
from shop.sales.repository import update_sale
from shop.settings import Settings
from tests.harness import TESTER, Shop
from tests.lua.ledgers import command

GOOD = ("kind", "pause", "change", 1, "outcome", "applied", "delta", 0, "balance", 10, "at", 1_790_000_000_000)


async def audited_sale(shop: Shop) -> tuple[Sale, Auditor]:
    """A sale that is loaded and was audited once; nobody else works in this shop."""
    never, settings = asyncio.Event(), shop.settings
    sale = await shop.draft_sale(units=10)
    async with shop.database.transaction() as session:
        sale = await service.schedule(session, TESTER, sale.id)
    controller = Controller(shop.database, shop.redis, shop.redis, settings, never, unfinished=orders.has_unfinished)
    await controller.step()
    auditor = Auditor(shop.database, shop.redis, settings, never)
    await auditor.step()
    return sale, auditor


@pytest.mark.parametrize(
    "entry",
    [(*GOOD[:9], 11, *GOOD[10:]), ("junk", "junk"), (*GOOD[:7], 1, *GOOD[8:])],
    ids=["balance", "junk", "delta"],
)
async def test_an_entry_that_cannot_be_true_is_left_to_the_persister(
    database: Database, redis: aioredis.Redis, settings: Settings, entry: Sequence[str | int]
) -> None:
    """It is not recorded, and whoever records stops the sale for it, so that the entry can be quarantined."""
    shop = Shop(settings, database, redis, "")
    sale, auditor = await audited_sale(shop)
    keys = ledger_keys(sale.id, 1)
    await command(redis, "XADD", keys.stream, "1-0", *entry)
    await command(redis, "HSET", keys.sale, "seq", 1)

    await auditor.step()

    found = await take_snapshot(database, redis, sale.id, settings)
    assert found is not None
    assert (found.in_redis, any(found.violations.values())) == (None, False)
    assert (await shop.row(sale)).alarm is None


async def test_a_good_entry_that_is_not_recorded_yet_is_part_of_the_proof(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """The ledger must be where its events lead to, whether they are in Postgres or still in the stream."""
    shop = Shop(settings, database, redis, "")
    sale, auditor = await audited_sale(shop)
    keys = ledger_keys(sale.id, 1)
    await command(redis, "XADD", keys.stream, "1-0", *GOOD)
    await command(redis, "HSET", keys.sale, "seq", 1)

    await auditor.step()
    found = await take_snapshot(database, redis, sale.id, settings)
    assert found is not None
    assert found.in_redis is not None
    assert ([event.seq for event in found.in_redis.undrained], (await shop.row(sale)).alarm) == ([1], None)

    await command(redis, "HSET", keys.sale, "available", 11)
    await auditor.step()
    assert "Redis has 11 units available, its events lead to 10" in ((await shop.row(sale)).alarm or "")


@pytest.mark.parametrize("lost", ["sale", "epoch", "seq"])
async def test_a_ledger_that_is_lost_is_left_to_its_recovery(
    database: Database, redis: aioredis.Redis, settings: Settings, lost: str
) -> None:
    """Missing, fenced or rolled back: the controller recovers it, and nobody has to be asked."""
    shop = Shop(settings, database, redis, "")
    sale, auditor = await audited_sale(shop)
    key = ledger_keys(sale.id, 1).sale
    await command(
        redis, *{"sale": ("DEL", key), "epoch": ("HSET", key, "epoch", "fenced.1")}.get(lost, ("HSET", key, "seq", -1))
    )

    await auditor.step()

    row = await shop.row(sale)
    assert (row.alarm, row.stopped_at) == (None, None)


async def test_what_was_seen_before_a_recovery_stops_nothing(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """The snapshot counts for the sale as it was; where nothing has moved, the same one does stop it."""
    shop = Shop(settings, database, redis, "")
    sale, _ = await audited_sale(shop)
    found = await take_snapshot(database, redis, sale.id, settings)
    assert found is not None
    for moved in ({"recovery": 1}, {"status": SaleStatus.ENDED}):
        async with database.transaction() as session:
            await update_sale(session, sale.id, **moved)
        assert not await stop_sale(database, redis, found, settings)
        async with database.transaction() as session:
            await update_sale(session, sale.id, recovery=0, status=SaleStatus.SCHEDULED)

    assert await stop_sale(database, redis, found, settings)
