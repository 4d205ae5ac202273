"""Two who want different things of one order at the same moment: one of them wins, and the money follows (I8, I11)."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import httpx
import pytest

from loadtests.judge.ledger import released_wrongly
from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderStatus
from shop.payments.service import money_report
from shop.payments.totals.repository import money
from shop.sales.models import Sale
from tests.harness import Shop
from tests.payments.orders import balanced, bought, make_due, moves, pay, statuses

PAIRS = int(os.environ.get("SHOP_RACE_PAIRS", "60"))  # of each of the four races; more of them find what is rare
TOGETHER = 20
HEAD_START_SECONDS = 0.005

Rival = Callable[[Shop, Order], Awaitable[object]]


async def _pay(shop: Shop, order: Order) -> object:
    return await pay(shop, order)


async def _cancel(shop: Shop, order: Order) -> object:
    client = await shop.client()
    return await client.post(f"/v1/orders/{order.id}/cancel", headers=shop.headers(order.user_id))


async def _expire(shop: Shop, order: Order) -> object:
    """Only now is its hold over: else the first of many would close all of them."""
    await make_due(shop, [order.id])
    return await expire_due(shop.database, shop.redis, shop.settings)


async def _refund(shop: Shop, order: Order) -> httpx.Response:
    client = await shop.client()
    headers = {**shop.admin_headers(), "Idempotency-Key": os.urandom(8).hex()}
    return await client.post(f"/v1/admin/orders/{order.id}/refund", headers=headers, json={"restock": True})


async def _race(shop: Shop, orders: Sequence[Order], *rivals: Rival) -> list[list[object]]:
    """Start the rivals of each order at one barrier, several orders at the same time; what each of them was told."""

    async def one(order: Order) -> list[object]:
        barrier = asyncio.Barrier(len(rivals))

        async def start(rival: Rival) -> object:
            await barrier.wait()
            await asyncio.sleep(random.uniform(0.0, HEAD_START_SECONDS))  # noqa: S311 - no secret
            return await rival(shop, order)

        return await asyncio.gather(*map(start, rivals))

    told: list[list[object]] = []
    for start in range(0, len(orders), TOGETHER):
        told += await asyncio.gather(*map(one, orders[start : start + TOGETHER]))
        async with shop.database.transaction() as session:
            assert money_report(await money(session)).balanced
    return told


def _winners(events: dict[UUID, list[str]], words: set[str]) -> list[int]:
    return [sum(word in words for word in of_one) for of_one in events.values()]


async def _each_unit_went_back_once(shop: Shop, sale: Sale) -> None:
    async with shop.database.transaction() as session:
        assert await released_wrongly(session, sale.id) == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rivals", "final"),
    [
        ((_pay, _expire), {OrderStatus.PAID, OrderStatus.EXPIRED}),
        ((_pay, _cancel), {OrderStatus.PAID, OrderStatus.CANCELLED}),
        ((_cancel, _expire), {OrderStatus.CANCELLED, OrderStatus.EXPIRED}),
    ],
    ids=["pay-expire", "pay-cancel", "cancel-expire"],
)
async def test_of_two_who_want_to_move_an_order_one_wins_and_the_money_follows(
    shop: Shop, rivals: tuple[Rival, Rival], final: set[OrderStatus]
) -> None:
    """Money that lost against a cancel goes back; against expiry it buys a replacement, since there are units (I11)."""
    sale = await shop.open_sale(units=2 * PAIRS)
    orders = await bought(shop, sale, PAIRS)
    ids = [order.id for order in orders]

    await _race(shop, orders, *rivals)

    found = await statuses(shop, ids)
    assert set(found.values()) == final, "each of them wins sometimes"
    assert set(_winners(await moves(shop, ids), {str(each) for each in OrderStatus})) == {1}
    paid = sum(status == OrderStatus.PAID for status in found.values())
    replaced = sum(status == OrderStatus.EXPIRED for status in found.values()) if _pay in rivals else 0
    await balanced(shop, sale, live=paid + replaced)
    await _each_unit_went_back_once(shop, sale)


@pytest.mark.timeout(300)
async def test_of_two_refunds_one_is_made(shop: Shop) -> None:
    """The money goes back once and so do the units, however often an admin asks (I8, I11)."""
    sale = await shop.open_sale(units=PAIRS)
    orders = await bought(shop, sale, PAIRS)
    for start in range(0, PAIRS, TOGETHER):
        await asyncio.gather(*(pay(shop, order) for order in orders[start : start + TOGETHER]))

    told = await _race(shop, orders, _refund, _refund)

    outcomes = [sorted(answer.status_code for answer in both if isinstance(answer, httpx.Response)) for both in told]
    assert {tuple(each) for each in outcomes} == {(202, 409)}
    assert set((await statuses(shop, [order.id for order in orders])).values()) == {OrderStatus.REFUNDED}
    await balanced(shop, sale, live=0)
    await _each_unit_went_back_once(shop, sale)
