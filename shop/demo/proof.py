"""What the demo looks up, waits for, and proves, between its waves and at its end."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from loadtests.crowd.record import CrowdRecord, CrowdSummary
from loadtests.judge import afterlife
from loadtests.judge.ledger import is_drained
from loadtests.judge.retries import Retries
from loadtests.judge.verify import Verdict, verify
from shop.audit.service import audit_sale
from shop.demo.stage import Stage, database_of
from shop.ledger import client as ledger
from shop.local import LocalShop
from shop.orders.models import OrderStatus
from shop.redis import connect
from shop.sales import repository as sales

DRAIN_SECONDS_MAX = 60.0
CLOSE_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
REFUNDED_SHARE = 0.01


async def verdict(shop: LocalShop, sale_id: int, record: CrowdRecord) -> Verdict:
    """Wait for the drain, then compare what the crowd was told with Postgres and Redis."""
    client = connect(shop.settings.redis_url, shop.settings)
    started = time.monotonic()
    try:
        async with database_of(shop.settings) as database:

            async def drained() -> bool:
                return await is_drained(database, client, sale_id)

            await _until(drained, DRAIN_SECONDS_MAX)
            drain_seconds = time.monotonic() - started
            report = await audit_sale(database, client, sale_id)
            async with database.transaction() as session:
                return await verify(
                    session,
                    sale_id=sale_id,
                    record=record,
                    invariants=report.invariants,
                    drain_seconds=drain_seconds,
                )
    finally:
        await client.aclose(close_connection_pool=True)


async def live_orders(shop: LocalShop, sale_id: int) -> list[tuple[str, str]]:
    """The orders of a sale that hold units, with their buyers."""
    return await _live_orders(shop, sale_id, tuple(OrderStatus))


async def unpaid_orders(shop: LocalShop, sale_id: int) -> list[tuple[str, str]]:
    """The orders of a sale that wait for their payment, with their buyers; call it when everything is drained."""
    await _until_drained(shop, sale_id)
    return await _live_orders(shop, sale_id, (OrderStatus.RESERVED,))


async def available(shop: LocalShop, sale_id: int) -> int:
    """The units that the ledger has now."""
    client = connect(shop.settings.redis_url, shop.settings)
    try:
        async with database_of(shop.settings) as database, database.transaction() as session:
            sale = await sales.find(session, sale_id)
        state = None if sale is None else await ledger.read_state(client, sale_id, sale.epoch)
        return 0 if state is None else state.available
    finally:
        await client.aclose(close_connection_pool=True)


async def refund_some(shop: LocalShop, stage: Stage, units: int) -> None:
    """Let the admin refund a few paid orders, with their units."""
    paid = await _live_orders(shop, stage.sale_id, (OrderStatus.PAID,))
    headers = {"Authorization": f"Bearer {stage.admin_token}"}
    async with httpx.AsyncClient(base_url=shop.base_url, headers=headers, timeout=30) as client:
        for order_id, _ in paid[: max(1, round(units * REFUNDED_SHARE))]:
            key = {"Idempotency-Key": f"refund-{order_id}"}
            answer = await client.post(f"/v1/admin/orders/{order_id}/refund", headers=key, json={"restock": True})
            answer.raise_for_status()


async def until_closed(shop: LocalShop, sale_id: int, *, within: float) -> None:
    """Wait until every forgotten order has expired, all units that are owed are back, and all payments are matched.

    Money that came too late may still take units for the order that it pays.
    """
    async with database_of(shop.settings) as database:

        async def closed() -> bool:
            provider = await _provider_summary(shop)
            async with database.transaction() as session:
                found = await afterlife.money_of_sale(session, sale_id)
                waiting = await afterlife.unfinished(session, sale_id, held=True)
            return waiting == found.unsettled == found.refund_pending == 0 and afterlife.same_books(found, provider)

        await _until(closed, within)
    await _until_drained(shop, sale_id)


async def after(
    shop: LocalShop,
    sale_id: int,
    *,
    returned: int,
    both: CrowdRecord,
    second: CrowdSummary,
    customers: Mapping[str, int],
    retries: Retries,
) -> afterlife.Afterlife:
    """Prove units and money; call it when the books can be closed."""
    together = await verdict(shop, sale_id, both)
    async with database_of(shop.settings) as database, database.transaction() as session:
        return await afterlife.prove(
            session,
            sale_id=sale_id,
            returned=returned,
            both=together,
            second=second,
            provider=await _provider_summary(shop),
            customers=customers,
            retries=retries,
        )


async def _provider_summary(shop: LocalShop) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=shop.provider_url, timeout=30) as client:
        summary: dict[str, Any] = (await client.get("/sandbox/summary")).raise_for_status().json()
        return summary


async def _live_orders(shop: LocalShop, sale_id: int, statuses: tuple[OrderStatus, ...]) -> list[tuple[str, str]]:
    async with database_of(shop.settings) as database, database.transaction() as session:
        return await afterlife.live_orders(session, sale_id, statuses)


async def _until_drained(shop: LocalShop, sale_id: int) -> None:
    client = connect(shop.settings.redis_url, shop.settings)
    try:
        async with database_of(shop.settings) as database:

            async def drained() -> bool:
                return await is_drained(database, client, sale_id)

            await _until(drained, DRAIN_SECONDS_MAX)
    finally:
        await client.aclose(close_connection_pool=True)


async def _until(condition: Callable[[], Awaitable[bool]], within: float) -> None:
    """Wait for the condition, and go on without it when the time is over: the proof tells what is wrong."""
    for _ in range(math.ceil(within / POLL_SECONDS)):
        if await condition():
            return
        await asyncio.sleep(POLL_SECONDS)
