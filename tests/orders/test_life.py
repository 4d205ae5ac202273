"""The life of an order: which status follows which, who moved it, and what its buyer is told about it."""

import asyncio
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update

from shop.database import Database
from shop.orders import repository
from shop.orders.life import COMES_FROM, By, move
from shop.orders.models import Order, OrderStatus
from shop.sales.models import Sale
from tests.harness import Shop, new_user_id, wait_until

PAIRS = 20


async def an_order(shop: Shop, sale: Sale, user_id: str, status: OrderStatus = OrderStatus.RESERVED) -> UUID:
    """A recorded order of this user that was brought to this status by moves."""
    order_id = UUID(await shop.bought(sale, user_id))
    await shop.drained(sale)
    way = [status]
    while way[0] in COMES_FROM:
        way.insert(0, COMES_FROM[way[0]])
    for step in way[1:]:
        assert await moved(shop.database, order_id, step)
    return order_id


async def moved(database: Database, order_id: UUID, to: OrderStatus) -> bool:
    async with database.transaction() as session:
        return bool(await move(session, [order_id], to, by=By.SHOP, reason="a test"))


async def read(shop: Shop, order_id: UUID, user_id: str) -> dict[str, Any]:
    answer = await (await shop.client()).get(f"/v1/orders/{order_id}", headers=shop.headers(user_id))
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize(("status", "to"), list(product(OrderStatus, COMES_FROM)))
async def test_an_order_moves_only_to_what_follows_its_status(shop: Shop, status: OrderStatus, to: OrderStatus) -> None:
    """A closed order never comes back, and nothing happens twice; a move that does not follow leaves no event."""
    sale, user = await shop.open_sale(units=1), new_user_id()
    order_id = await an_order(shop, sale, user, status)
    before = (await read(shop, order_id, user))["timeline"]

    follows = COMES_FROM[to] == status
    assert await moved(shop.database, order_id, to) is follows

    after = await read(shop, order_id, user)
    events = [entry["event"] for entry in after["timeline"] if entry["event"] != "released"]
    assert after["status"] == (to if follows else status)
    assert events == [entry["event"] for entry in before if entry["event"] != "released"] + ([to] if follows else [])


async def test_of_two_who_move_an_order_one_wins_and_one_event_is_recorded(shop: Shop) -> None:
    sale = await shop.open_sale(units=PAIRS, units_per_user=PAIRS, orders_per_user=PAIRS)
    for _ in range(PAIRS):
        user = new_user_id()
        order_id = await an_order(shop, sale, user)
        rivals = (OrderStatus.PAID, OrderStatus.CANCELLED, OrderStatus.EXPIRED)

        won = await asyncio.gather(*(moved(shop.database, order_id, to) for to in rivals))

        async with shop.database.transaction() as session:
            events = [event.status for event in await repository.events(session, order_id)]
        assert sum(won) == 1
        assert events == [to for to, has_won in zip(rivals, won, strict=True) if has_won]


async def test_the_timeline_tells_a_cancellation_and_that_the_units_are_back(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order_id = await an_order(shop, sale, user)

    await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user))

    async def released() -> dict[str, Any] | None:
        found = await read(shop, order_id, user)
        return found if found["released_at"] else None

    order: dict[str, Any] = await wait_until(released, reason="the units are back")
    told = [(entry["event"], entry["by"]) for entry in order["timeline"]]
    assert told == [("reserved", "buyer"), ("cancelled", "buyer"), ("released", "shop")]
    moments = [entry["at"] for entry in order["timeline"]]
    assert moments == sorted(moments)


async def test_the_timeline_tells_that_the_hold_has_run_out(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order_id = await an_order(shop, sale, user)
    async with shop.database.transaction() as session:
        await session.execute(update(Order).where(Order.id == order_id).values(expires_at=func.now()))

    async def expired() -> dict[str, Any] | None:
        found = await read(shop, order_id, user)
        return found if found["status"] == "expired" else None

    order: dict[str, Any] = await wait_until(expired, reason="the order has expired")
    entry = order["timeline"][1]
    assert (entry["event"], entry["by"], entry["reason"]) == ("expired", "shop", "the hold has run out")
