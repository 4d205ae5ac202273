"""Requests that do not wait for the answers before them: each is answered in order, or the connection ends."""

import asyncio

import pytest

from shop.sales.models import Sale
from tests.harness import Shop
from tests.server.connections.wishes import ask_again, assert_all_are_served, assert_sold_to, wishes
from tests.server.raw import LIVEZ, Answer, exchange, wire, wires

ALIVE = b"GET /livez HTTP/1.1\r\nHost: shop\r\nX-Request-Id: alive\r\n\r\n"
NOWHERE = b"GET /nowhere HTTP/1.1\r\nHost: shop\r\nX-Request-Id: nowhere\r\n\r\n"
PIPELINE = 10
CROWD = 30
TIMES = 10
HEAD_BYTES_MAX = 32 * 1024

GARBAGE: dict[str, tuple[bytes, int]] = {
    "zeros": (b"\0\0\0\0", 400),
    "no method": (b"\x16\x03\x01\x02\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a bad header": (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
    "a bad chunk": (b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "too long a head": (b"GET / HTTP/1.1\r\nX: " + b"x" * (HEAD_BYTES_MAX + 1_000) + b"\r\n\r\n", 431),
    "an incomplete request": (b"GET / HT", 408),
    "an incomplete body": (b"POST /v1/seckill/sales/1/orders HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 408),
}


@pytest.fixture(scope="module")
async def sale(served_shop: Shop) -> Sale:
    """A sale with units for all."""
    return await served_shop.open_sale(units=10_000)


async def test_pipelined_requests_are_answered_in_their_order(shop: Shop, sale: Sale) -> None:
    """Purchases, quick ones, unknown ones and refused ones, in one piece: each gets the answer that is its own."""
    first, second, chunks, refused = wishes(shop, sale, 4)
    requests = [
        first.request(),
        ALIVE,
        second.request(),
        NOWHERE,
        chunks.chunked(b'{"quantity', b'":1}', trailer=b"X-Trailer: yes\r\n"),
        refused.request(body=b'{"quantity":0}'),
        first.request(),
        ALIVE,
    ]
    async with wire(shop) as connection:
        connection.send(b"".join(requests))
        answers = [await connection.answer() for _ in requests]

    said = [(answer.status, answer.headers["x-request-id"]) for answer in answers]
    assert said == [
        (202, first.user_id),
        (200, "alive"),
        (202, second.user_id),
        (404, "nowhere"),
        (202, chunks.user_id),
        (422, refused.user_id),
        (200, first.user_id),
        (200, "alive"),
    ]
    assert answers[0].json()["id"] == answers[6].json()["id"]


async def test_a_pipeline_may_be_split_at_every_byte(shop: Shop) -> None:
    """Two purchases and what is between them, cut anywhere: both are made, and both buyers are told in order."""
    sale = await shop.open_sale(units=4_000)
    pair = wishes(shop, sale, 2)
    length = sum(len(wish.request()) for wish in pair)
    pairs = [wishes(shop, sale, 2) for _ in range(length // 2)]
    pipelines = [b"".join(wish.request() for wish in pair) for pair in pairs]
    async with wires(shop, len(pairs)) as connections:
        for number, (pipeline, connection) in enumerate(zip(pipelines, connections, strict=True)):
            connection.send(pipeline[: 2 * number])
        assert (await exchange(shop, LIVEZ)).status == 200
        for number, (pipeline, connection) in enumerate(zip(pipelines, connections, strict=True)):
            connection.send(pipeline[2 * number :])
        orders = [
            wish.won(await connection.answer())
            for pair, connection in zip(pairs, connections, strict=True)
            for wish in pair
        ]

    await assert_sold_to(shop, sale, orders)


async def test_as_many_pipelined_purchases_as_anybody_likes_are_each_made_once_or_not_at_all(shop: Shop) -> None:
    """The answers are those to the first requests, without a gap; what got none was not done or is found again."""
    sale = await shop.open_sale(units=2_000)
    wanted = wishes(shop, sale, 300)
    orders = []
    async with wire(shop) as connection:
        connection.send(b"".join(wish.request() for wish in wanted))
        for wish in wanted:
            try:
                answer = await connection.answer()
            except EOFError:
                break
            if answer.status != 202:
                assert_last_words([answer], 400)
                break
            orders.append(wish.won(answer))

    assert len(orders) >= PIPELINE
    await assert_all_are_served(wanted, earlier=orders)


async def test_a_purchase_keeps_its_answer_whatever_comes_behind_it(shop: Shop) -> None:
    """202 exactly once, then a refusal of the rest or none, then the end: what was executed is never answered 4xx."""
    sale = await shop.open_sale(units=1_000)
    names = [*GARBAGE] * TIMES
    wanted = wishes(shop, sale, len(names))
    async with wires(shop, len(names)) as connections:
        for wish, name, connection in zip(wanted, names, connections, strict=True):
            connection.send(wish.request() + GARBAGE[name][0])
        found = await asyncio.gather(*(connection.rest() for connection in connections))

    assert {name for name, answers in zip(names, found, strict=True) if not answers} == set()
    orders = [wish.won(answers[0]) for wish, answers in zip(wanted, found, strict=True)]
    for name, (_, *refusals) in zip(names, found, strict=True):
        assert_last_words(refusals, GARBAGE[name][1])
    await assert_sold_to(shop, sale, orders)


async def test_garbage_that_comes_while_a_purchase_is_under_way_does_not_take_its_answer(shop: Shop) -> None:
    """Sent a moment later, in a piece of its own."""
    sale = await shop.open_sale(units=2 * CROWD)
    wanted = wishes(shop, sale, CROWD)
    async with wires(shop, CROWD) as connections:
        for wish, connection in zip(wanted, connections, strict=True):
            connection.send(wish.request())
        for connection in connections:
            connection.send(b"\0garbage\r\n\r\n")
        found = await asyncio.gather(*(connection.rest() for connection in connections))

    orders = [wish.won(answers[0]) for wish, answers in zip(wanted, found, strict=True)]
    for _, *refusals in found:
        assert_last_words(refusals, 400)
    await assert_sold_to(shop, sale, orders)


async def test_every_purchase_of_a_pipeline_keeps_its_answer_whatever_comes_behind_them(shop: Shop) -> None:
    """Those that wait for the ones before them too."""
    sale = await shop.open_sale(units=1_000)
    pipelines = [wishes(shop, sale, PIPELINE) for _ in GARBAGE]
    async with wires(shop, len(GARBAGE)) as connections:
        for wanted, (behind, _), connection in zip(pipelines, GARBAGE.values(), connections, strict=True):
            connection.send(b"".join(wish.request() for wish in wanted) + behind)
        found = await asyncio.gather(*(connection.rest() for connection in connections))

    assert [name for name, answers in zip(GARBAGE, found, strict=True) if len(answers) < PIPELINE] == []
    orders = []
    for wanted, answers, (_, status) in zip(pipelines, found, GARBAGE.values(), strict=True):
        orders += [wish.won(answer) for wish, answer in zip(wanted, answers, strict=False)]
        assert_last_words(answers[PIPELINE:], status)
    await assert_sold_to(shop, sale, orders)


def assert_last_words(answers: list[Answer], status: int) -> None:
    """At most one answer, which refuses what came behind and ends the connection."""
    assert [(answer.status, answer.closes) for answer in answers] in ([], [(status, True)])


@pytest.mark.parametrize("last", ["Connection: close", "Connection: Close, X", "HTTP/1.0"])
async def test_what_comes_behind_the_last_request_of_a_connection_is_not_done(
    shop: Shop, sale: Sale, last: str
) -> None:
    """A client that says that it closes is answered, and nothing that it sends after it counts (RFC 9112, 9.6)."""
    wish, behind = wishes(shop, sale, 2)
    old = wish.request(line=f"POST {wish.path} HTTP/1.0")
    request = old if last == "HTTP/1.0" else wish.request(last)
    async with wire(shop) as connection:
        connection.send(request + behind.request())
        (answer,) = await connection.rest()

    wish.won(answer)
    assert answer.closes
    assert [each.outcome for each in await ask_again([wish, behind])] == ["replayed", "reserved"]


async def test_a_pipeline_that_is_reset_is_each_purchase_once_or_never(shop: Shop) -> None:
    """Some were executed, nobody knows which; asked again with their keys, all are, and none twice."""
    sale = await shop.open_sale(units=1_000)
    wanted = wishes(shop, sale, CROWD * PIPELINE)
    async with wires(shop, CROWD) as connections:
        for number, connection in enumerate(connections):
            mine = wanted[number * PIPELINE : (number + 1) * PIPELINE]
            connection.send(b"".join(wish.request() for wish in mine))
        await connections[0].begun()
        for connection in connections:
            connection.reset()

    await assert_all_are_served(wanted)
