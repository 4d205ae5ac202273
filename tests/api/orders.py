"""What buyers ask of their orders over HTTP, recorded or not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from sqlalchemy import text

from shop.sales.models import Sale
from tests.harness import Shop, wait_until


@asynccontextmanager
async def recording_held_up(shop: Shop, sale: Sale) -> AsyncIterator[None]:
    """Nothing of the sale is recorded while the block lasts: its row is locked."""
    async with shop.database.transaction() as session:
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await session.execute(text("SELECT 1 FROM sales WHERE id = :id FOR UPDATE"), {"id": sale.id})
        yield


async def read(shop: Shop, order_id: str, user_id: str) -> httpx.Response:
    return await (await shop.client()).get(f"/v1/orders/{order_id}", headers=shop.headers(user_id))


async def cancel(shop: Shop, order_id: str, user_id: str) -> httpx.Response:
    return await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))


async def list_orders(shop: Shop, user_id: str, **query: Any) -> httpx.Response:
    return await (await shop.client()).get("/v1/orders", headers=shop.headers(user_id), params=query)


async def until_released(shop: Shop, order_id: str, user_id: str) -> dict[str, Any]:
    async def released() -> dict[str, Any] | None:
        found: dict[str, Any] = (await read(shop, order_id, user_id)).json()
        return found if found["released_at"] else None

    order: dict[str, Any] = await wait_until(released, reason="the units are back")
    return order
