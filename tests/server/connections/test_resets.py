"""Connections that end at any byte: what was not whole was not done, and what was done is found again by its key."""

from collections.abc import Callable, Sequence

import psutil
import pytest

from shop.sales.models import Sale
from tests.harness import Shop, wait_until
from tests.processes import Processes
from tests.server.connections.wishes import BODY, Frame, Wish, ask_again, assert_all_are_served, assert_sold_to, wishes
from tests.server.raw import LIVEZ, Wire, exchange, wires

Ending = Callable[[Wire], None]

ENDINGS: dict[str, Ending] = {"a reset": Wire.reset, "a FIN": Wire.end}
WHOLE = 20  # Complete purchases whose connection ends at once; some are executed.


@pytest.fixture(params=list(ENDINGS.values()), ids=list(ENDINGS))
def ending(request: pytest.FixtureRequest) -> Ending:
    """How the client leaves: with a RST, or with a FIN, after which it would still listen."""
    found: Ending = request.param
    return found


async def break_off(wanted: Sequence[Wish], starts: Sequence[bytes], ending: Ending) -> None:
    """Send each start on a connection of its own, and end all of them in this way."""
    async with wires(wanted[0].shop, len(wanted)) as connections:
        for start, connection in zip(starts, connections, strict=True):
            connection.send(start)
        for connection in connections:
            ending(connection)
        for connection in connections:
            await connection.until_closed()


async def assert_whole_or_nothing(shop: Shop, sale: Sale, frame: Frame, ending: Ending, *, first: int) -> None:
    """Break purchases off after `first` bytes and each later one: only those that were whole may have been executed."""
    length = len(frame(Wish.of(shop, sale)))
    cuts = [*range(first, length), *[length] * WHOLE]
    wanted = wishes(shop, sale, len(cuts))

    await break_off(wanted, [frame(wish)[:cut] for wish, cut in zip(wanted, cuts, strict=True)], ending)

    again = await ask_again(wanted)
    assert {answer.outcome for answer in again[:-WHOLE]} == {"reserved"}
    assert {answer.outcome for answer in again[-WHOLE:]} <= {"reserved", "replayed"}
    await assert_all_are_served(wanted, earlier=[answer.body["id"] for answer in again])


async def test_a_connection_may_end_after_every_byte_of_a_purchase(shop: Shop, ending: Ending) -> None:
    """An incomplete request is never executed. A whole one may be: asked again, it is the same order."""
    sale = await shop.open_sale(units=1_000)
    await assert_whole_or_nothing(shop, sale, Wish.request, ending, first=0)


async def test_a_connection_may_end_after_every_byte_of_a_body_in_chunks(shop: Shop, ending: Ending) -> None:
    """Also in an extension, in the last chunk, which is empty, and in a trailer."""
    sale = await shop.open_sale(units=1_000)

    def frame(wish: Wish) -> bytes:
        return wish.chunked(BODY[:6], BODY[6:], extension=b";a=b", trailer=b"X-Trailer: yes\r\n")

    head = frame(Wish.of(shop, sale)).index(b"\r\n\r\n")
    await assert_whole_or_nothing(shop, sale, frame, ending, first=head)


async def test_whoever_leaves_when_their_answer_comes_finds_it_again(shop: Shop, ending: Ending) -> None:
    """The purchase is made by then, whether the client has read a word of it or not."""
    sale = await shop.open_sale(units=200)
    wanted = wishes(shop, sale, 100)
    async with wires(shop, len(wanted)) as connections:
        for wish, connection in zip(wanted, connections, strict=True):
            connection.send(wish.request())
        for connection in connections:
            await connection.begun()
            ending(connection)

    again = await ask_again(wanted)

    assert {answer.outcome for answer in again} == {"replayed"}
    await assert_sold_to(shop, sale, [answer.body["id"] for answer in again])


async def test_connections_that_were_reset_leave_nothing_behind(shop: Shop, api: Processes) -> None:
    """The API has as many connections afterwards as before, wherever in a request its clients left."""
    sale = await shop.open_sale(units=1_000)
    process = psutil.Process(api.running["api"].pid)
    wanted = wishes(shop, sale, 300)
    before = len(process.net_connections("tcp"))
    async with wires(shop, len(wanted)) as connections:
        for number, (wish, connection) in enumerate(zip(wanted, connections, strict=True)):
            connection.send((wish.request() * 2)[: number * 3])
        assert (await exchange(shop, LIVEZ)).status == 200
        assert len(process.net_connections("tcp")) >= before + len(wanted)
        for connection in connections:
            connection.reset()

    async def closed() -> bool:
        return len(process.net_connections("tcp")) <= before

    await wait_until(closed, within=5.0, reason="all connections are closed")


async def test_a_reset_in_the_middle_of_an_ordinary_request_is_no_error(shop: Shop) -> None:
    """A route that waits for the rest of a body learns that nobody will send it; an answer may have no reader."""
    body = b'{"name":"Half","price_minor":1,"currency":"EUR"}'
    head = (
        "POST /v1/admin/products HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        f"Authorization: {shop.admin_headers()['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    requests = [head + body[:-10]] * 20 + [b"GET /v1/products HTTP/1.1\r\nHost: shop\r\n\r\n"] * 20
    async with wires(shop, len(requests)) as connections:
        for request, connection in zip(requests, connections, strict=True):
            connection.send(request)
        for connection in connections:
            connection.reset()

    assert (await exchange(shop, LIVEZ)).status == 200
