"""Requests that do not come to an end: they are cut in time, and nothing was done for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from sqlalchemy import text

from shop.sales.models import Sale
from shop.settings import Settings
from tests.harness import Shop, running_shop
from tests.processes import copy_of, lasting
from tests.server.connections.conftest import CUT_SECONDS_MAX, REQUEST_SECONDS_MAX
from tests.server.connections.wishes import (
    BODY,
    Wish,
    ask_again,
    assert_all_are_served,
    assert_sold_to,
    chunked,
    wishes,
)
from tests.server.raw import LIVEZ, Answer, Wire, exchange, wire, wires

TRICKLE_SECONDS = 0.05


@pytest.fixture(scope="module")
async def sale(served_shop: Shop) -> Sale:
    """A sale with units for all."""
    return await served_shop.open_sale(units=1_000)


async def trickle(connection: Wire, data: bytes) -> None:
    """Send one byte at a time, as long as the server listens."""
    for byte in data:
        if connection.closed_at is not None:
            return
        connection.send(bytes([byte]))
        await lasting(TRICKLE_SECONDS)


async def cut(shop: Shop, start: bytes, slowly: bytes = b"") -> None:
    """Check that a request which starts like this and goes on slowly has 408 as its one answer, in time."""
    async with wire(shop) as connection:
        started = asyncio.get_running_loop().time()
        connection.send(start)
        trickling = asyncio.create_task(trickle(connection, slowly))
        answers = await connection.rest(within=CUT_SECONDS_MAX)
        await trickling
        assert connection.closed_at is not None
        assert REQUEST_SECONDS_MAX * 0.9 <= connection.closed_at - started <= CUT_SECONDS_MAX
    if b"Expect:" in start:
        assert answers.pop(0).status == 100
    assert len(answers) == 1
    assert_timed_out(answers)


def assert_timed_out(answers: Iterable[Answer]) -> None:
    for answer in answers:
        assert (answer.status, answer.refusal(), answer.closes) == (408, "request_timeout", True)


def beginnings(wish: Wish) -> Sequence[bytes]:
    """Where a purchase may stop, as what was sent until then."""
    plain, chunks = wish.request(), wish.chunked(extension=b";name=value", trailer=b"X-Trailer: yes\r\n")
    head, body = plain.index(b"\r\n\r\n") + 4, chunks.index(b"\r\n\r\n") + 4
    return [
        plain[:1],
        plain[:20],
        plain[:60],
        plain[: head - 1],
        plain[:head],
        plain[:-1],
        wish.request("Expect: 100-continue")[: -len(BODY)],
        chunks[:body],
        chunks[: body + 1],
        chunks[: body + 6],
        chunks[: chunks.index(b"quantity")],
        chunks[: chunks.index(b"Trailer: ")],
        chunks[:-1],
    ]


async def test_a_purchase_that_stops_anywhere_is_cut_in_time_and_nothing_is_done(shop: Shop, sale: Sale) -> None:
    """In the line, the head, the body, a chunk, a trailer, or where it waits for 100: the same wish is new later."""
    wanted = wishes(shop, sale, len(beginnings(Wish.of(shop, sale))))

    await asyncio.gather(*(cut(shop, beginnings(wish)[number]) for number, wish in enumerate(wanted)))

    assert {answer.outcome for answer in await ask_again(wanted)} == {"reserved"}


async def test_a_purchase_that_trickles_is_cut_as_one_that_stops(shop: Shop, sale: Sale) -> None:
    """A byte now and then buys no time: not in the head, the body, a chunk, an extension or a trailer."""
    wish = Wish.of(shop, sale)
    plain, chunks = wish.request(), wish.chunked()
    head, body = plain.index(b"\r\n\r\n") + 4, chunks.index(b"\r\n\r\n") + 4
    slow = [
        (plain[:1], plain[1:]),
        (plain[: head - 4], b"\r\nX: y" * 100),
        (plain[:head], BODY[:-1]),
        (chunks[:body], chunked(*[b" "] * 100)),
        (chunks[:body], b"e;" + b"x" * 1_000),
        (chunks[:-2], b"X: y\r\n" * 100),
    ]

    await asyncio.gather(*(cut(shop, start, slowly) for start, slowly in slow))

    assert [answer.outcome for answer in await ask_again([wish])] == ["reserved"]


def test_the_time_for_a_request_is_five_seconds_unless_it_is_set() -> None:
    """The tests set it, because they have not that much."""
    assert Settings.model_fields["request_seconds_max"].default == 5.0


ORDINARY = [
    ("/v1/users", "application/json", b'{"email":"slow@example.com","password":"correct horse battery"}'),
    ("/v1/auth/token", "application/x-www-form-urlencoded", b"username=slow%40example.com&password=correct"),
    ("/v1/admin/products", "application/json", b'{"name":"Slow","price_minor":1,"currency":"EUR"}'),
]


async def test_a_request_to_an_ordinary_route_is_cut_in_the_same_way(shop: Shop) -> None:
    """Whether the route reads JSON or a form, and whoever asks."""
    starts = [
        f"POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: {shop.admin_headers()['Authorization']}\r\n\r\n".encode()
        + body[:-1]
        for path, kind, body in ORDINARY
    ]

    await asyncio.gather(*(cut(shop, start) for start in starts))


async def test_the_second_request_of_a_connection_has_the_same_time_as_the_first(shop: Shop, sale: Sale) -> None:
    """What came before it on the connection is answered, and neither shortens its time nor lengthens it."""
    first, second = wishes(shop, sale, 2)
    async with wire(shop) as connection:
        connection.send(first.request())
        first.won(await connection.answer())
        await lasting(REQUEST_SECONDS_MAX * 0.3)
        started = asyncio.get_running_loop().time()
        connection.send(second.request()[:-1])

        assert_timed_out(await connection.rest(within=CUT_SECONDS_MAX))

        assert connection.closed_at is not None
        assert connection.closed_at - started >= REQUEST_SECONDS_MAX * 0.9
    assert [answer.outcome for answer in await ask_again([first, second])] == ["replayed", "reserved"]


async def test_requests_that_come_slowly_but_in_time_are_answered(shop: Shop, sale: Sale) -> None:
    """The time is one request's, not one connection's."""
    async with wire(shop) as connection:
        for wish in wishes(shop, sale, 3):
            request = wish.request()
            connection.send(request[:-1])
            await lasting(REQUEST_SECONDS_MAX * 0.4)
            connection.send(request[-1:])
            wish.won(await connection.answer())


async def test_a_connection_that_is_idle_before_or_between_requests_is_not_cut(shop: Shop) -> None:
    async with wires(shop, 2) as (used, new):
        used.send(LIVEZ)
        assert (await used.answer()).status == 200
        await lasting(REQUEST_SECONDS_MAX * 1.5)
        for connection in (used, new):
            connection.send(LIVEZ)
            assert (await connection.answer()).status == 200


async def test_a_complete_request_is_not_cut_however_long_its_answer_takes(shop: Shop) -> None:
    """Its time is over when it has come: a 408 would say that nothing was done."""
    product = await shop.make_product(stock=5)
    body = b'{"delta":1}'
    request = (
        f"POST /v1/admin/products/{product.id}/stock HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        f"Authorization: {shop.admin_headers()['Authorization']}\r\nIdempotency-Key: once-{product.id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    async with wire(shop) as connection:
        async with shop.database.transaction() as session:
            lock = text("SELECT 1 FROM products WHERE id = :id FOR UPDATE")
            await session.execute(lock, {"id": product.id})
            connection.send(request)
            await lasting(REQUEST_SECONDS_MAX * 1.6)
            assert connection.closed_at is None

        answer = await connection.answer()
        assert (answer.status, answer.json()["stock"], answer.closes) == (200, 6, False)
        connection.send(LIVEZ)
        assert (await connection.answer()).status == 200


async def test_a_purchase_that_was_executed_is_never_answered_408(shop: Shop) -> None:
    """Buyers whose last byte comes just when their time is over: each 202 is an order, each 408 is none."""
    sale = await shop.open_sale(units=200)
    wanted = wishes(shop, sale, 200)
    won: dict[str, str] = {}

    async def late(number: int, wish: Wish, connection: Wire) -> None:
        request = wish.request()
        connection.send(request[:-1])
        await lasting(REQUEST_SECONDS_MAX * (0.8 + number / 300))
        connection.send(request[-1:])
        try:
            answer = await connection.answer(within=CUT_SECONDS_MAX)
        except EOFError:
            assert connection.was_reset  # The last byte met a closed socket, and took the answer away.
            return
        if answer.status == 202:
            won[wish.user_id] = wish.won(answer)
        else:
            assert_timed_out([answer])

    async with wires(shop, len(wanted)) as connections:
        await asyncio.gather(*(late(*each) for each in zip(range(len(wanted)), wanted, connections, strict=True)))

    assert 0 < len(won) < len(wanted)
    await assert_sold_to(shop, sale, won.values())
    await assert_all_are_served(wanted, earlier=won.values())


async def test_a_body_that_goes_on_after_its_refusal_is_cut_too(shop: Shop, sale: Sale) -> None:
    """A client that was told that its body is too large gets no second answer, and the connection is closed."""
    wish = Wish.of(shop, sale)
    async with wire(shop) as connection:
        connection.send(wish.request("Content-Length: 60000", body=b" " * 5_000, framing=None))
        answer = await connection.answer()
        assert (answer.status, answer.refusal()) == (413, "body_too_large")

        trickling = asyncio.create_task(trickle(connection, b" " * 1_000))
        assert await connection.rest(within=CUT_SECONDS_MAX) == []
        await trickling


@pytest.fixture
async def impatient_shop(live_shop: Shop) -> AsyncIterator[Shop]:
    """A shop that closes a connection which is not used for half a second."""
    async with running_shop(copy_of(live_shop.settings, keep_alive_seconds=0.5), worker=False) as found:
        yield found


async def test_a_connection_that_nobody_uses_is_closed_after_a_while(impatient_shop: Shop) -> None:
    """Whether it had a request before, none, or only the empty lines that may precede one; without an answer."""
    async with wires(impatient_shop, 3) as (used, new, empty):
        used.send(LIVEZ)
        assert (await used.answer()).status == 200
        trickling = asyncio.create_task(trickle(empty, b"\r\n" * 100))
        for connection in (used, new, empty):
            assert await connection.rest(within=4.0) == []
        await trickling
    assert (await exchange(impatient_shop, LIVEZ)).status == 200
