"""More purchases than a process can serve: some are refused at once, nobody else is, and nothing comes to a halt."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shop.sales.models import Sale
from tests.connections.conftest import hurried
from tests.connections.raw import LIVEZ, Wire, wires
from tests.connections.wishes import Wish, assert_sold_to, wishes
from tests.harness import Shop

CROWD = 300
OTHERS = 20
TRIES_MAX = 2_000


@pytest.fixture
async def hurried_shop(live_shop: Shop, tmp_path: Path) -> AsyncIterator[Shop]:
    """An API process that lets no purchase wait for longer than a moment, and soon reads in turns."""
    async with hurried(live_shop, tmp_path, overload_refused_at_once_max=60) as found:
        yield found


async def open_sale(shop: Shop, live_shop: Shop, units: int) -> Sale:
    """A sale that the hurried process has learned of as well."""
    sale = await live_shop.open_sale(units=units)
    await shop.until_loaded(sale)
    return sale


async def test_a_purchase_that_would_wait_too_long_is_refused_and_nothing_was_done(
    hurried_shop: Shop, live_shop: Shop
) -> None:
    """A refusal says when to come back, keeps the connection, and leaves no order behind (I9)."""
    sale = await open_sale(hurried_shop, live_shop, CROWD)
    wanted = wishes(hurried_shop, sale, CROWD)
    async with wires(hurried_shop, CROWD) as connections:
        for wish, connection in zip(wanted, connections, strict=True):
            connection.send(wish.request())
        answers = await asyncio.gather(*(connection.answer() for connection in connections))

        refused = [answer for answer in answers if answer.status == 503]
        orders = [wish.won(answer) for wish, answer in zip(wanted, answers, strict=True) if answer.status != 503]
        assert set(Counter(answer.status for answer in answers)) == {202, 503}
        assert {answer.refusal() for answer in refused} == {"overloaded"}
        assert all(int(answer.headers["retry-after"]) >= 1 and not answer.closes for answer in refused)
        await assert_sold_to(live_shop, sale, orders)


async def test_other_requests_are_served_while_purchases_are_refused(hurried_shop: Shop, live_shop: Shop) -> None:
    sale = await open_sale(hurried_shop, live_shop, CROWD)
    wanted = wishes(hurried_shop, sale, CROWD)
    async with wires(hurried_shop, CROWD) as buyers, wires(hurried_shop, OTHERS) as others:
        for wish, buyer in zip(wanted, buyers, strict=True):
            buyer.send(wish.request())
        for other in others:
            other.send(LIVEZ)
        answers = await asyncio.gather(*(buyer.answer() for buyer in buyers))
        assert {answer.status for answer in await asyncio.gather(*(other.answer("GET") for other in others))} == {200}

    assert 503 in {answer.status for answer in answers}


async def test_a_crowd_that_never_waits_is_read_in_turns_and_everybody_gets_his_order(
    hurried_shop: Shop, live_shop: Shop
) -> None:
    """Refusing those who ask again at once does not help; left in the kernel, they cost nothing until their turn."""
    sale = await open_sale(hurried_shop, live_shop, CROWD)
    wanted = wishes(hurried_shop, sale, CROWD)
    async with wires(hurried_shop, CROWD) as connections:
        tries = await asyncio.gather(*(_insist(*pair) for pair in zip(wanted, connections, strict=True)))

    await assert_sold_to(live_shop, sale, [order_id for order_id, _ in tries])
    assert sum(count for _, count in tries) <= TRIES_MAX, sum(count for _, count in tries)


async def _insist(wish: Wish, connection: Wire) -> tuple[str, int]:
    """Ask until the answer is not a refusal, without any pause; the order, and how often it was asked for."""
    for count in range(1, TRIES_MAX):
        connection.send(wish.request())
        answer = await connection.answer()
        if answer.status != 503:
            return wish.won(answer), count
    raise AssertionError("refused for ever")
