"""More purchases than a process can serve: some are refused at once, nobody else is, and nothing comes to a halt."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from loadtests.client.http import Address
from shop.sales.models import Sale
from tests.harness import Shop
from tests.server.connections.conftest import hurried
from tests.server.connections.wishes import BODY, Wish, assert_sold_to, wishes
from tests.server.raw import LIVEZ, Wire, wires

CROWD = 300
OTHERS = 20
ORIGIN = "https://shop.example"
BEHIND = 12
PAUSE_SECONDS = 0.1
TRIES_MAX = 2_000


@pytest.fixture
async def hurried_shop(live_shop: Shop, tmp_path: Path) -> AsyncIterator[Shop]:
    """An API process that lets no purchase wait for longer than a moment, and is soon saturated.

    It takes one purchase of a buyer, and no more for a long time; one that was refused has not been taken.
    """
    changes = {"overload_refused_at_once_max": 60, "purchase_burst": 1, "purchase_rate_per_second": 1e-4}
    async with hurried(live_shop, tmp_path, cors_origins=[ORIGIN], **changes) as found:
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
        assert {503} <= {answer.status for answer in answers} <= {202, 503}
        assert {answer.refusal() for answer in refused} == {"overloaded"}
        assert all(int(answer.headers["retry-after"]) >= 1 and not answer.closes for answer in refused)
        assert len({answer.headers["retry-after"] for answer in refused}) > 1, "they would come back as one"
        later, _ = await _insist(Wish.of(hurried_shop, sale), connections[-1])
        await assert_sold_to(live_shop, sale, {*orders, later})


async def test_other_requests_are_served_while_purchases_are_refused(hurried_shop: Shop, live_shop: Shop) -> None:
    """Buyers may look at their orders, pay and cancel while nobody can buy."""
    sale = await open_sale(hurried_shop, live_shop, CROWD + 1)
    buyer = Wish.of(live_shop, sale)
    order_id = await live_shop.bought(sale, buyer.user_id, key=buyer.key)
    await live_shop.drained(sale)
    path = f"/v1/orders/{order_id}"
    requests = [LIVEZ] * OTHERS
    requests += [buyer.request(line=f"GET {path} HTTP/1.1", framing=None, body=b"")] * OTHERS
    requests += [buyer.request(line=f"POST {path}/{verb} HTTP/1.1", body=b"") for verb in ("payment", "cancel")]
    wanted = wishes(hurried_shop, sale, CROWD)
    async with wires(hurried_shop, CROWD) as buyers, wires(hurried_shop, len(requests)) as others:
        for wish, connection in zip(wanted, buyers, strict=True):
            connection.send(wish.request())
        for request, other in zip(requests, others, strict=True):
            other.send(request)
        answers = await asyncio.gather(*(connection.answer() for connection in buyers))
        told = await asyncio.gather(*(other.answer() for other in others))

    assert 503 in {answer.status for answer in answers}
    assert {answer.status for answer in told[:-2]} == {200}
    payment, cancellation = told[-2:]
    assert (payment.refusal(), cancellation.status) == ("provider_unavailable", 200)


async def test_what_stands_behind_another_request_is_refused_as_well(hurried_shop: Shop, live_shop: Shop) -> None:
    """Else a client would only have to ask for something else first."""
    sale = await open_sale(hurried_shop, live_shop, CROWD + BEHIND)
    wanted, behind = wishes(hurried_shop, sale, CROWD), wishes(hurried_shop, sale, BEHIND)
    async with wires(hurried_shop, CROWD) as connections, wires(hurried_shop, 1) as (pipelined,):
        for number, (wish, connection) in enumerate(zip(wanted, connections, strict=True)):
            connection.send(wish.request())
            if number == CROWD // 2:
                pipelined.send(LIVEZ + b"".join(wish.request() for wish in behind))
        crowding = asyncio.gather(*(_insist(*pair) for pair in zip(wanted, connections, strict=True)))
        assert (await pipelined.answer("GET")).status == 200
        answers = [await pipelined.answer() for _ in behind]
        tries = await crowding

    assert [answer.headers["x-request-id"] for answer in answers] == [wish.user_id for wish in behind]
    assert {answer.refusal() for answer in answers if answer.status != 202} == {"overloaded"}
    orders = [wish.won(answer) for wish, answer in zip(behind, answers, strict=True) if answer.status == 202]
    await assert_sold_to(live_shop, sale, [*orders, *(order_id for order_id, _ in tries)])


async def test_a_page_of_another_origin_sees_the_refusal(hurried_shop: Shop, live_shop: Shop) -> None:
    """To the page, an answer without these headers would be a broken connection."""
    sale = await open_sale(hurried_shop, live_shop, CROWD)
    async with wires(hurried_shop, CROWD) as connections:
        for wish, connection in zip(wishes(hurried_shop, sale, CROWD), connections, strict=True):
            connection.send(wish.request(f"Origin: {ORIGIN}"))
        answers = await asyncio.gather(*(connection.answer() for connection in connections))

    assert {503} <= {answer.status for answer in answers} <= {202, 503}
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {ORIGIN}
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 503)


async def test_a_refusal_that_ends_its_connection_arrives(hurried_shop: Shop, live_shop: Shop) -> None:
    """A client that sends its body when the answer has left already is not thrown out before it reads."""
    sale = await open_sale(hurried_shop, live_shop, CROWD)
    address, loop = Address.of(hurried_shop.base_url), asyncio.get_running_loop()
    async with wires(hurried_shop, CROWD) as crowd, AsyncExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((address.host, address.port))) for _ in range(CROWD)]
        for sock, connection in zip(slow, crowd, strict=True):
            sock.setblocking(False)
            connection.send(Wish.of(hurried_shop, sale).request())
            await loop.sock_sendall(sock, Wish.of(hurried_shop, sale).request("Connection: close")[: -len(BODY)])
        await asyncio.gather(*(connection.answer() for connection in crowd))
        for part in (BODY[:5], BODY[5:]):
            for sock in slow:
                await loop.sock_sendall(sock, part)
            await asyncio.sleep(PAUSE_SECONDS)
        answers = [await loop.sock_recv(sock, 16 * 1024) for sock in slow]

    assert {answer.partition(b"\r\n")[0] for answer in answers} >= {b"HTTP/1.1 503 Service Unavailable"}
    assert all(b"\r\nconnection: close\r\n" in answer for answer in answers)


async def test_a_crowd_that_never_waits_gets_back_pressure_and_everybody_gets_their_order(
    hurried_shop: Shop, live_shop: Shop
) -> None:
    """Refusing those who ask again at once does not help; parked, they cost nothing until they are resumed."""
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
