"""What an order's routes hold of Postgres while they ask somebody else: nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID, uuid4

import pytest

from shop.errors import OrderNotFound
from shop.orders import service
from shop.payments import service as payments
from shop.seckill.polls import Polls
from tests.harness import Shop, new_user_id

AT_ONCE = 150

Ask = Callable[[Shop, UUID, str], Awaitable[object]]


async def _read(shop: Shop, order_id: UUID, user: str) -> object:
    async with shop.database.transaction() as session:
        return await service.read(session, shop.redis, order_id=order_id, buyer_id=user, polls=Polls(shop.settings))


async def _cancel_or_pay(service_of: Callable[..., Awaitable[object]], shop: Shop, order_id: UUID, user: str) -> object:
    """Neither needs its third argument, the cache or the gateway, for an order that is not there."""
    return await service_of(shop.database, shop.redis, None, order_id=order_id, buyer_id=user, settings=shop.settings)


ASKS: list[Ask] = [_read, partial(_cancel_or_pay, service.cancel), partial(_cancel_or_pay, payments.start)]


@pytest.mark.parametrize("ask", ASKS, ids=["read", "cancel", "pay"])
async def test_no_connection_is_held_while_the_ledger_is_asked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """A Redis that hangs would keep all of them from everybody else."""
    sale = await shop.open_sale(units=1)
    held: list[int] = []

    async def find_order(*_: object) -> None:
        held.append(shop.database.connections_in_use)

    monkeypatch.setattr("shop.orders.service.ledger.find_order", find_order)
    unknown = UUID(int=(sale.id << 96) | (uuid4().int & (2**96 - 1)))
    with pytest.raises(OrderNotFound):
        await ask(shop, unknown, new_user_id())

    assert held == [0]


async def test_many_who_show_their_receipts_at_once_do_not_wait_for_each_other(shop: Shop) -> None:
    """Each takes one connection; with two, those who have one would wait for the other."""
    sale, client = await shop.open_sale(units=AT_ONCE), await shop.client()
    users = [new_user_id() for _ in range(AT_ONCE)]
    told = [(await shop.buy(sale, user)).json() for user in users]

    answers = await asyncio.gather(
        *(
            client.get(f"/v1/orders/{each['id']}", headers={**shop.headers(user), "Receipt": each["receipt"]})
            for user, each in zip(users, told, strict=True)
        )
    )

    assert {answer.status_code for answer in answers} == {200}
