"""A worker beside a sale that it can neither read, record, audit nor recover serves all other sales."""

import asyncio

import redis.asyncio as aioredis
from sqlalchemy import select

from shop.audit.live.auditor import Auditor
from shop.audit.models import SaleAudit
from shop.database import Database
from shop.ledger import client as ledger
from shop.ledger.client import LastOrder, RedisClock, ReserveRequest
from shop.ledger.order_ids import keyed_order_id
from shop.sales.controller import Controller
from shop.sales.incidents.demand import demand_recovery
from shop.sales.incidents.models import Recovery
from shop.sales.loading import loaded_sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.faults.isolation.counted import failing, one_more_fails, scheduled
from tests.faults.isolation.poisoned import poison, unreadable
from tests.harness import Shop, new_user_id, wait_until

UNREADABLE = "ends_at = '20000-01-01'"


async def test_sales_are_recorded_and_recovered_beside_one_that_cannot_be_read(
    bare_shop: Shop, controller: Controller
) -> None:
    shop = bare_shop
    sales = [await scheduled(shop) for _ in range(3)]
    await controller.step()
    await controller.step()
    for sale in sales:
        row, user = await shop.row(sale), new_user_id()
        wish = ReserveRequest(keyed_order_id(sale.id, row.salt, user, "key"), user, 1)
        (answer,) = await ledger.reserve(
            shop.redis, loaded_sale(row), [wish], clock=RedisClock(), last=LastOrder(b"", 0), timeout=5
        )
        assert answer.word == "RESERVED"
        await demand_recovery(shop.database, shop.redis, row, "a test", may_load=True)
    await poison(shop, sales[1], UNREADABLE)

    async def recovered() -> set[int]:
        async with shop.database.transaction() as session:
            return set(await session.scalars(select(Recovery.sale_id).where(Recovery.finished_at.is_not(None))))

    async def both() -> bool:
        return await recovered() == {sales[0].id, sales[2].id}

    async with running_worker(shop.settings):
        await wait_until(both, reason="the others are recovered")
        assert failing("recoveries") >= 1
    assert [(await shop.row(sale)).watermark for sale in (sales[0], sales[2])] == [1, 1]


async def test_an_audit_that_cannot_be_read_hides_no_other(
    bare_shop: Shop, controller: Controller, redis: aioredis.Redis, database: Database, settings: Settings
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await controller.step()
    auditor = Auditor(database, redis, settings, asyncio.Event())
    await auditor.step()
    await unreadable(database, "sale_audits", "checked_at", sale_id=sales[1].id)

    async def checked() -> dict[int, object]:
        async with database.transaction() as session:
            query = select(SaleAudit.sale_id, SaleAudit.checked_at).where(SaleAudit.sale_id != sales[1].id)
            return {sale_id: at for sale_id, at in await session.execute(query)}  # noqa: C416

    before = await checked()
    with one_more_fails("auditor"):
        await auditor.step()
        await auditor.step()

    after = await checked()
    assert all(after[sale.id] != before[sale.id] for sale in (sales[0], sales[2]))
