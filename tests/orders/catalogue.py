"""Orders of the catalogue's products over HTTP, and what is in stock of them."""

import itertools
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import func, select, update

from shop.orders.models import Order, OrderLine
from shop.products import repository as products
from shop.products.models import Product
from tests.harness import Shop

_numbers = itertools.count(1)


def new_key() -> str:
    """An Idempotency-Key that no other request has."""
    return f"key-{next(_numbers)}"


def line(product: Product | int, quantity: Any = 1) -> dict[str, Any]:
    return {"product_id": product if isinstance(product, int) else product.id, "quantity": quantity}


async def make_product(shop: Shop, **fields: Any) -> Product:
    """A product with these fields, such as another currency."""
    wanted = {"name": "Product", "price_minor": 990, "currency": "EUR", "stock": 10} | fields
    async with shop.database.transaction() as session:
        return await products.add(session, **wanted)


async def change_product(shop: Shop, product: Product, **fields: Any) -> None:
    async with shop.database.transaction() as session:
        await products.change(session, product.id, fields)


async def place(shop: Shop, user_id: str, *lines: dict[str, Any], key: str | None = None) -> httpx.Response:
    """Order these lines; with a key of its own if none is given."""
    headers = shop.headers(user_id, key=key or new_key())
    return await (await shop.client()).post("/v1/orders", headers=headers, json={"lines": list(lines)})


async def placed(shop: Shop, user_id: str, *lines: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """The order that was made for these lines."""
    answer = await place(shop, user_id, *lines, key=key)
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()
    return order


async def read(shop: Shop, order_id: object, user_id: str) -> httpx.Response:
    return await (await shop.client()).get(f"/v1/orders/{order_id}", headers=shop.headers(user_id))


async def cancel(shop: Shop, order_id: object, user_id: str) -> httpx.Response:
    return await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))


async def stock(shop: Shop, *those: Product) -> list[int]:
    """The units in stock of these products, in their order."""
    query = select(Product.id, Product.stock).where(Product.id.in_([product.id for product in those]))
    async with shop.database.transaction() as session:
        found = {product_id: units for product_id, units in await session.execute(query)}  # noqa: C416
    return [found[product.id] for product in those]


async def live_units(shop: Shop, product: Product) -> int:
    """The units of this product that ordinary orders have and have not given back."""
    query = (
        select(func.coalesce(func.sum(OrderLine.quantity), 0))
        .join(Order, Order.id == OrderLine.order_id)
        .where(OrderLine.product_id == product.id, Order.sale_id.is_(None), Order.released_at.is_(None))
    )
    async with shop.database.transaction() as session:
        return int((await session.execute(query)).scalar_one())


async def let_hold_run_out(shop: Shop, *order_ids: str) -> None:
    """The holds of these orders are over now."""
    over = update(Order).where(Order.id.in_([UUID(order_id) for order_id in order_ids]))
    async with shop.database.transaction() as session:
        await session.execute(over.values(expires_at=func.now()))


async def count_orders(shop: Shop, *user_ids: str) -> int:
    query = select(func.count()).select_from(Order).where(Order.user_id.in_(user_ids))
    async with shop.database.transaction() as session:
        return (await session.execute(query)).scalar_one()
