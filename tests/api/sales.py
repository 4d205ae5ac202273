"""What admins and the public ask of sales over HTTP, and where the units are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from shop.products import repository as products
from shop.sales.models import Sale, SaleStatus
from tests.harness import Shop, wait_until

ADMIN_SALES = "/v1/admin/sales"
PUBLIC_SECONDS_MAX = 1.0  # a process shows a page as it was for 0.15 s; the rest is a busy machine's


def soon(seconds: float) -> str:
    """A moment from now as the API takes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def post(shop: Shop, path: str, body: Any = None, **headers: str) -> httpx.Response:
    return await (await shop.client()).post(path, headers=shop.admin_headers() | headers, json=body)


async def patch(shop: Shop, sale: Sale, body: dict[str, Any]) -> httpx.Response:
    client = await shop.client()
    return await client.patch(f"{ADMIN_SALES}/{sale.id}", headers=shop.admin_headers(), json=body)


async def read(shop: Shop, sale: Sale) -> dict[str, Any]:
    answer = await (await shop.client()).get(f"{ADMIN_SALES}/{sale.id}", headers=shop.admin_headers())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def read_public(shop: Shop, sale: Sale) -> dict[str, Any]:
    answer = await (await shop.client()).get(f"/v1/seckill/sales/{sale.id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def until_public(shop: Shop, sale: Sale, **values: object) -> None:
    """Wait until everybody sees these values: a process may show a page for a moment as it was."""

    async def shown() -> bool:
        public = await read_public(shop, sale)
        return all(public[name] == value for name, value in values.items())

    await wait_until(shown, within=PUBLIC_SECONDS_MAX, reason=f"the public sees {values}")


async def stock_of(shop: Shop, sale: Sale) -> int:
    async with shop.database.transaction() as session:
        product = await products.find(session, sale.product_id)
    assert product is not None
    return product.stock


async def until_status(shop: Shop, sale: Sale, status: SaleStatus) -> Sale:
    async def reached() -> Sale | None:
        row = await shop.row(sale)
        return row if row.status == status else None

    row: Sale = await wait_until(reached, reason=f"the sale is {status}")
    return row


async def cancel(shop: Shop, order_id: str, user_id: str) -> None:
    answer = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))
    assert answer.status_code == 200, answer.text


async def wish(shop: Shop, **changes: Any) -> dict[str, Any]:
    """The body of a draft over a product of its own."""
    product = await shop.make_product(stock=changes.pop("stock", 100))
    body = {
        "product_id": product.id,
        "name": "A sale",
        "units": 10,
        "starts_at": soon(60),
        "ends_at": soon(3_600),
        **changes,
    }
    return {name: value for name, value in body.items() if value is not ...}
