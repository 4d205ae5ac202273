"""While purchases are refused, new ones are deferred until the loop has time: whatever they look like, none is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from shop.seckill import whole_purchases
from shop.settings import Settings
from tests.harness import Shop, running_shop
from tests.processes import copy_of
from tests.server.connections.conftest import hurried
from tests.server.connections.wishes import Wish, assert_all_are_served, assert_sold_to, wishes
from tests.server.raw import ANSWER_SECONDS, LIVEZ, Answer, Wire, wires

CROWD = 300
PIPELINED = 3
DEFERRED_SECONDS = 2.0
LARGE = b" " * 40_000


@pytest.fixture
async def hurried_shop(live_shop: Shop, tmp_path: Path) -> AsyncIterator[Shop]:
    """An API process that lets no purchase wait for longer than a moment, and refuses as many as come."""
    async with hurried(live_shop, tmp_path) as found:
        yield found


@pytest.fixture
async def busy_shop(live_shop: Shop, live_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """An API that lets no purchase wait at all, and whose loop always has something else to do."""
    monkeypatch.setattr("shop.server.admission_control.IDLE_ITERATION_SECONDS", -1.0)
    monkeypatch.setattr("shop.server.admission_control.DEFERRED_SECONDS_MAX", DEFERRED_SECONDS)
    async with running_shop(copy_of(live_settings, overload_delay_seconds=1e-9), worker=False) as found:
        yield found


async def test_what_was_deferred_is_answered_in_time_however_it_came(busy_shop: Shop, live_shop: Shop) -> None:
    """In one piece or three, alone or with the next request behind it; other requests do not wait with it."""
    sale = await live_shop.open_sale(units=2 * CROWD)
    await busy_shop.until_loaded(sale)
    crowd, wanted = wishes(busy_shop, sale, CROWD), wishes(busy_shop, sale, 3 + PIPELINED)
    alone, late, whole, *pipelined = [wish.request() for wish in wanted]
    async with wires(busy_shop, CROWD) as pressing, wires(busy_shop, 5) as others:
        in_pieces, in_bytes, in_one, in_row, other = others
        refused = asyncio.Event()
        crowding = [
            asyncio.create_task(_ask(wish, connection, refused))
            for wish, connection in zip(crowd, pressing, strict=True)
        ]
        await asyncio.wait_for(refused.wait(), ANSWER_SECONDS)
        for number, piece in enumerate((alone[:60], alone[60:-14], alone[-14:])):
            in_pieces.send(piece)
            in_bytes.send(late[number : number + 1] if number < 2 else late[2:])
            if number == 0:
                in_one.send(whole)
                in_row.send(b"".join(pipelined))
                other.send(LIVEZ)
                assert (await other.answer("GET", within=DEFERRED_SECONDS / 2)).status == 200
            await asyncio.sleep(DEFERRED_SECONDS / 20)
        answers = [await each.answer() for each in (in_pieces, in_bytes, in_one)]
        answers += [await in_row.answer() for _ in pipelined]
        answers += await asyncio.gather(*crowding)

    asking = [*wanted, *crowd]
    assert [answer.headers["x-request-id"] for answer in answers] == [wish.user_id for wish in asking]
    assert {503} <= {answer.status for answer in answers} <= {202, 503}
    assert {answer.refusal() for answer in answers if answer.status == 503} == {"overloaded"}
    orders = [wish.won(answer) for wish, answer in zip(asking, answers, strict=True) if answer.status == 202]
    await assert_sold_to(live_shop, sale, orders)


async def _ask(wish: Wish, connection: Wire, refused: asyncio.Event) -> Answer:
    """The first answer; the buyer asks again until anybody is refused."""
    first = None
    while first is None or not refused.is_set():
        connection.send(wish.request())
        answer = await connection.answer()
        first = first or answer
        if answer.status == 503:
            refused.set()
    return first


async def test_a_crowd_of_every_kind_is_answered_as_each_deserves_or_refused(
    hurried_shop: Shop, live_shop: Shop
) -> None:
    """What is wrong with a purchase may remain unsaid while it is refused; nothing else comes of it."""
    sale = await live_shop.open_sale(units=CROWD)
    await hurried_shop.until_loaded(sale)
    wanted = wishes(hurried_shop, sale, CROWD)
    kinds: list[Callable[[Wish], tuple[bytes, set[int]]]] = [
        lambda wish: (wish.request(), {202}),
        lambda wish: (wish.chunked(), {202}),
        lambda wish: (wish.request("Connection: close"), {202}),
        lambda wish: (wish.request("Content-Type: text/html"), {415}),
        lambda wish: (wish.request(body=b"{"), {400}),
        lambda wish: (wish.request(body=b'{"quantity":1}' + LARGE), {413}),
        lambda wish: (wish.request("Bad Header: 1"), {400}),
        lambda wish: (wish.request(f"Content-Length: {'1' * 5_000}", framing=None), {400}),
        lambda _: (LIVEZ, {200}),
    ]
    async with wires(hurried_shop, CROWD) as connections:
        expected = []
        for number, (wish, connection) in enumerate(zip(wanted, connections, strict=True)):
            request, statuses = kinds[number % len(kinds)](wish)
            expected.append(statuses if request == LIVEZ else {*statuses, 503})
            connection.send(request)
        answers = await asyncio.gather(
            *(
                connection.answer("GET" if found == {200} else "POST")
                for connection, found in zip(connections, expected, strict=True)
            )
        )

    assert all(answer.status in statuses for answer, statuses in zip(answers, expected, strict=True))
    assert 503 in {answer.status for answer in answers}
    await assert_sold_to(
        live_shop, sale, [wish.won(a) for wish, a in zip(wanted, answers, strict=True) if a.status == 202]
    )


async def test_buyers_who_hang_up_in_a_crowd_harm_nobody(hurried_shop: Shop, live_shop: Shop) -> None:
    sale = await live_shop.open_sale(units=CROWD)
    await hurried_shop.until_loaded(sale)
    wanted = wishes(hurried_shop, sale, CROWD)
    orders = []
    async with wires(hurried_shop, CROWD) as connections:
        for wish, connection in zip(wanted, connections, strict=True):
            connection.send(wish.request())
        for number, connection in enumerate(connections):
            if number % 3 == 0:
                connection.reset()
        for number, (wish, connection) in enumerate(zip(wanted, connections, strict=True)):
            if number % 3 and (answer := await connection.answer()).status == 202:
                orders.append(wish.won(answer))

    await assert_all_are_served([replace(wish, shop=live_shop) for wish in wanted], earlier=orders)


async def test_an_error_in_what_was_deferred_costs_its_own_connection_and_no_other(
    busy_shop: Shop, live_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind it are answered, and so is everybody after them."""
    sale = await live_shop.open_sale(units=2 * CROWD)
    await busy_shop.until_loaded(sale)

    def whole_purchase(data: bytes) -> whole_purchases.WholePurchase | None:
        if b"X-Unforeseen" in data:
            raise RuntimeError("nobody has thought of this")
        return whole_purchases.whole_purchase(data)

    monkeypatch.setattr("shop.seckill.admission.whole_purchase", whole_purchase)
    crowd = wishes(busy_shop, sale, CROWD)
    async with wires(busy_shop, CROWD) as connections:
        failing = connections[CROWD // 2 :: 50]
        for _ in range(3):
            for wish, connection in zip(crowd, connections, strict=True):
                unforeseen = ["X-Unforeseen: yes"] if connection in failing else []
                if connection.closed_at is None:
                    connection.send(wish.request(*unforeseen))
            for connection in connections:
                if connection not in failing:
                    assert (await connection.answer()).status in {200, 202, 503}
                elif connection.closed_at is None:
                    with suppress(EOFError):
                        await connection.answer()

    assert any(connection.closed_at is not None for connection in failing)
