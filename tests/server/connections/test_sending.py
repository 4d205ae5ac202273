"""Answers leave together at the end of a loop iteration: in their order, whole, and before the connection ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from shop.sales.models import Sale
from shop.server.sending import UNSENT_BYTES_MAX, Outbox, SendingProtocol
from tests.harness import Shop, wait_until
from tests.server.connections.wishes import wishes
from tests.server.raw import ANSWER_SECONDS, wire, wires

ALIVE = b"GET /livez HTTP/1.1\r\nHost: shop\r\nX-Request-Id: alive\r\n\r\n"
CROWD = 50


@pytest.fixture(scope="module")
async def sold_out(served_shop: Shop) -> Sale:
    """A sale of which the process remembers that nothing is left."""
    sale = await served_shop.open_sale(units=1)
    (winner,) = wishes(served_shop, sale, 1)
    async with wire(served_shop) as connection:
        connection.send(winner.request())
        winner.won(await connection.answer())

        async def remembered() -> bool:
            (loser,) = wishes(served_shop, sale, 1)
            before = await served_shop.redis.info("commandstats")
            connection.send(loser.request())
            assert (await connection.answer()).refusal() == "sold_out"
            after = await served_shop.redis.info("commandstats")
            return bool(before["cmdstat_evalsha"]["calls"] == after["cmdstat_evalsha"]["calls"])

        await wait_until(remembered, reason="sold out is answered from memory")
    return sale


async def test_sold_out_from_memory_keeps_its_order_in_a_pipeline(shop: Shop, sold_out: Sale) -> None:
    """It is known at once, and still waits for the answers before it."""
    losers = wishes(shop, sold_out, 4)
    requests = [loser.request() for loser in losers]
    async with wire(shop) as connection:
        connection.send(b"".join([requests[0], ALIVE, requests[1], requests[2], ALIVE, requests[3]]))
        answers = [await connection.answer() for _ in range(6)]

    names = [losers[0].user_id, "alive", losers[1].user_id, losers[2].user_id, "alive", losers[3].user_id]
    assert [answer.headers["x-request-id"] for answer in answers] == names
    assert [answer.status for answer in answers] == [409, 200, 409, 409, 200, 409]


async def test_sold_out_from_memory_is_the_last_answer_for_who_closes(shop: Shop, sold_out: Sale) -> None:
    """It arrives whole, whatever the client sends behind it, and then the connection ends."""
    losers = wishes(shop, sold_out, 2 * CROWD)
    async with wires(shop, CROWD) as connections:
        for loser, another, connection in zip(losers, losers[CROWD:], connections, strict=False):
            connection.send(loser.request("Connection: close") + another.request())
        found = await asyncio.gather(*(connection.rest() for connection in connections))

    said = [[(answer.headers["x-request-id"], answer.status, answer.closes) for answer in answers] for answers in found]
    assert said == [[(loser.user_id, 409, True)] for loser in losers[:CROWD]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda request: request.replace(b"Authorization: Bearer ", b"Authorization: Bearer x"), "unauthorized"),
        (lambda request: request.replace(b'{"quantity":1}', b'{"quantity":0}'), "invalid"),
        (lambda request: request.replace(b"Host", b"Content-Type: text/plain\r\nHost"), "unsupported_media_type"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_in_a_sale_that_is_sold_out_too(
    shop: Shop, sold_out: Sale, change: Callable[[bytes], bytes], code: str
) -> None:
    """Memory speaks only to whoever may ask."""
    (loser,) = wishes(shop, sold_out, 1)
    async with wire(shop) as connection:
        connection.send(change(loser.request()))

        assert (await connection.answer()).refusal() == code


@pytest.fixture
def long_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may stand still in the midst of an iteration; what is written waits for its end all the same."""
    monkeypatch.setattr("shop.server.sending.TOGETHER_SECONDS_MAX", 60.0)


class Served(SendingProtocol):
    """A connection of a server that notes how often it is written to."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(asyncio.get_running_loop(), outbox)
        self.flushed: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def flush(self) -> None:
        self.flushed.append(len(self._unsent))
        super().flush()


@asynccontextmanager
async def connections(count: int) -> AsyncIterator[list[tuple[Served, asyncio.StreamReader]]]:
    """Connections of one process, each with its client."""
    outbox, loop, served = Outbox(), asyncio.get_running_loop(), []

    def serve() -> Served:
        served.append(Served(outbox))
        return served[-1]

    async with await loop.create_server(serve, "127.0.0.1", 0) as server:
        clients = []
        for number in range(count):
            clients.append(await asyncio.open_connection(*server.sockets[0].getsockname()))

            async def accepted(number: int = number) -> bool:
                return len(served) > number and hasattr(served[number], "transport")

            await wait_until(accepted, reason="the connection is made")
        try:
            yield [(each, reader) for each, (reader, _) in zip(served, clients, strict=True)]
        finally:
            for each, (_, writer) in zip(served, clients, strict=True):
                each.transport.abort()
                writer.close()


@pytest.mark.usefixtures("long_iteration")
async def test_what_is_written_in_one_iteration_leaves_in_one_piece() -> None:
    """Of each connection, in the order in which it was written."""
    async with connections(3) as pairs:
        for letter in (b"a", b"b", b"c"):
            for served, _ in pairs:
                served.write(letter)

        assert [await reader.readexactly(3) for _, reader in pairs] == [b"abc"] * 3
        assert [served.flushed for served, _ in pairs] == [[3]] * 3


async def test_a_connection_that_ends_sends_what_was_written_first() -> None:
    """The end is behind the last byte."""
    async with connections(1) as [(served, reader)]:
        served.write(b"the last words")
        served.close()

        assert await reader.read() == b"the last words"


@pytest.mark.usefixtures("long_iteration")
async def test_much_is_sent_before_the_end_of_the_iteration() -> None:
    """A writer that makes no pause notices that its client does not read."""
    async with connections(1) as [(served, _)]:
        for _ in range(100):
            served.write(b"x" * UNSENT_BYTES_MAX)
            served.write(b"x")

        assert served.writable is not None


async def test_no_answer_waits_for_the_end_of_a_long_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes after a while lets go who has written before."""
    monkeypatch.setattr("shop.server.sending.TOGETHER_SECONDS_MAX", 60.0)
    async with connections(2) as [(first, _), (second, _)]:
        first.write(b"early")
        assert first.flushed == []

        monkeypatch.setattr("shop.server.sending.TOGETHER_SECONDS_MAX", -1.0)
        second.write(b"late")

        assert (first.flushed, second.flushed) == ([5], [4])


@pytest.mark.usefixtures("long_iteration")
async def test_a_connection_that_is_gone_does_not_hold_up_the_others() -> None:
    """What was written for it is dropped."""
    async with connections(3) as pairs:
        for served, _ in pairs:
            served.write(b"an answer")
        pairs[0][0].transport.abort()

        async with asyncio.timeout(ANSWER_SECONDS):
            assert [await reader.readexactly(9) for _, reader in pairs[1:]] == [b"an answer"] * 2
            assert await pairs[0][1].read() == b""
