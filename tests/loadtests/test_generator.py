"""The load generator against a scripted server of the loopback: it counts right, and measures from the right moment."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from loadtests.bench.generator import latency_of, play
from loadtests.bench.messages import Plan
from loadtests.bench.requests import Shoppers, idempotency_key, purchase_requests, user_id
from loadtests.client.http import is_complete
from shop.auth import TokenVerifier
from shop.settings import Settings

SECRET = "a-secret-of-the-tests-that-is-long-enough"
PATH = "/v1/seckill/sales/1/orders"


def answer(status: str = "202 Accepted", body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


@dataclass
class Server:
    """A server that answers by a script, and the requests that it saw."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


Script = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[Server]:
    """Serve a script, which gets the number of each request; a closed writer hangs up."""
    found = Server()
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        if task := asyncio.current_task():
            serving.add(task)
            task.add_done_callback(serving.discard)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
                found.requests.append(head + await reader.readexactly(int(length)))
                await script(len(found.requests), writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    found.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield found
        listening.close()
        for task in set(serving):
            task.cancel()


async def accept(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(answer())


def shoppers(count: int, *, name: str = "t1") -> Shoppers:
    return Shoppers(name=name, count=count, secret=SECRET, issuer="shop", audience="shop", issued_at=int(time.time()))


def plan(port: int, count: int, **wishes: object) -> Plan:
    made = Plan(port=port, path=PATH, shoppers=shoppers(count), connections=8)
    for wish, value in wishes.items():
        setattr(made, wish, value)
    return made


def header(request: bytes, name: bytes) -> bytes:
    return request.partition(b"\r\n%b: " % name)[2].partition(b"\r\n")[0]


async def test_a_closed_loop_sends_every_request_once_and_counts_every_answer() -> None:
    async with server(accept) as shop:
        found = await play(plan(shop.port, 100))

    assert found.statuses == {"202": 100}
    assert found.sent == len(shop.requests) == 100
    assert shop.connections == found.connections == 8
    assert (found.lost, found.unanswered, found.unsent) == (0, 0, 0)


async def test_every_request_has_a_token_and_a_key_of_its_own() -> None:
    async with server(accept) as shop:
        await play(plan(shop.port, 50))

    assert len({header(request, b"Authorization") for request in shop.requests}) == 50
    assert len({header(request, b"Idempotency-Key") for request in shop.requests}) == 50
    assert all(request.endswith(b'\r\n\r\n{"quantity": 1}') for request in shop.requests)


def test_the_shop_accepts_the_tokens() -> None:
    verifier = TokenVerifier(Settings(_env_file=None, environment="development", secret_key=SECRET))
    (request,) = purchase_requests(shoppers(1), host="127.0.0.1", port=1, path=PATH)

    identity = verifier.verify(header(request, b"Authorization").removeprefix(b"Bearer "))

    assert (identity.user_id, identity.role) == (user_id("t1", 0), "shopper")


def test_users_and_keys_are_as_long_as_the_shops_own() -> None:
    assert len(user_id("r0001", 123)) == 12
    assert len(idempotency_key("r0001", 123)) == 36


async def test_answers_are_counted_by_their_status() -> None:
    async def every_third_sold_out(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("409 Conflict", b'{"code":"sold_out"}') if number % 3 == 0 else answer())

    async with server(every_third_sold_out) as shop:
        found = await play(plan(shop.port, 90))

    assert found.statuses == {"202": 60, "409": 30}
    assert set(found.latency_ms) == {"202", "409"}


async def test_an_answer_may_come_in_pieces() -> None:
    async def in_pieces(_: int, writer: asyncio.StreamWriter) -> None:
        for byte in answer(body=b"x" * 20):
            writer.write(bytes([byte]))
            await writer.drain()

    async with server(in_pieces) as shop:
        found = await play(plan(shop.port, 10, connections=2))

    assert found.statuses == {"202": 10}
    assert found.answer_bytes == len(answer(body=b"x" * 20))


@pytest.mark.parametrize("cut", [0, 10, len(answer()) - 1])
def test_an_answer_is_complete_only_with_its_last_byte(cut: int) -> None:
    assert not is_complete(answer()[:cut])
    assert is_complete(answer())


async def test_a_broken_connection_is_counted_and_replaced() -> None:
    async def hang_up_on_the_fifth(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 5:
            writer.close()
        else:
            writer.write(answer())

    async with server(hang_up_on_the_fifth) as shop:
        found = await play(plan(shop.port, 40, connections=4))

    assert found.lost == 1
    assert found.statuses == {"202": 39}
    assert shop.connections == 5


async def test_a_closed_loop_ends_with_its_time_and_measures_only_the_window() -> None:
    async def slowly(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(answer())

    async with server(slowly) as shop:
        found = await play(plan(shop.port, 10_000, seconds=0.3, warmup_seconds=0.1))

    assert found.seconds == pytest.approx(0.3, abs=0.05) or found.seconds > 0.3  # late on a busy machine, never early
    assert not found.exhausted
    assert 0 < found.statuses["202"] < found.sent <= len(shop.requests)
    assert found.latency_ms["202"].p50 >= 9  # the answer takes 10 ms, by another clock


async def test_a_round_that_runs_out_of_requests_says_so() -> None:
    async with server(accept) as shop:
        found = await play(plan(shop.port, 20, seconds=30.0))

    assert found.exhausted
    assert found.sent == 20
    assert found.seconds < 30  # it did not wait for the time


async def test_an_open_loop_keeps_its_rate_however_fast_the_answers_are() -> None:
    async with server(accept) as shop:
        found = await play(plan(shop.port, 1_000, rate=200.0, seconds=0.5))

    assert 80 <= found.sent <= 101
    assert found.unsent == 0


async def test_an_open_loop_measures_from_the_moment_a_request_was_meant_to_leave() -> None:
    """The first answer takes 300 ms on the only connection: the second request waits for it, and that counts."""

    async def first_slowly(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            await asyncio.sleep(0.3)
        writer.write(answer())

    async with server(first_slowly) as shop:
        opened = await play(plan(shop.port, 10, rate=100.0, connections=1))
    async with server(first_slowly) as shop:
        closed = await play(plan(shop.port, 10, connections=1))

    assert opened.latency_ms["202"].p50 > 200
    assert closed.latency_ms["202"].p50 < opened.latency_ms["202"].p50 / 2
    assert opened.latency_ms["202"].max >= 290


async def test_what_was_due_and_could_not_leave_is_counted() -> None:
    async def never(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with server(never) as shop:
        found = await play(plan(shop.port, 1_000, rate=100.0, seconds=0.3, connections=3, grace_seconds=0.1))

    assert found.unanswered == found.sent == 3
    assert 20 <= found.unsent <= 30
    assert found.statuses == {}


async def test_it_tells_what_it_cost_itself_and_others() -> None:
    async with server(accept) as shop:
        found = await play(plan(shop.port, 500, accounts={"server": [os.getpid()]}))

    assert 0 < found.cpu_seconds["generator"] <= found.cpu_seconds["server"] * 1.5
    assert found.rss_bytes["server"] > 1_000_000
    assert found.generator_share > 0


async def test_nobody_at_the_address_is_an_error() -> None:
    async with server(accept) as shop:
        port = shop.port
    with pytest.raises(ConnectionError, match="nobody answers"):
        await play(plan(port, 1))


def test_percentiles_are_in_milliseconds() -> None:
    found = latency_of([number / 1000 for number in range(1, 101)])

    assert (found.p50, found.p99, found.max) == (51.0, 100.0, 100.0)


async def test_as_a_process_it_answers_each_line_with_a_line() -> None:
    async with server(accept) as shop:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.bench.generator", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        lines = "".join(json.dumps(_plain(shop.port, name)) + "\n" for name in ("a", "b"))
        output, _ = await process.communicate(lines.encode())

    rounds = [json.loads(line) for line in output.splitlines()]
    assert [each["statuses"] for each in rounds] == [{"202": 5}, {"202": 5}]
    assert process.returncode == 0


def _plain(port: int, name: str) -> dict[str, object]:
    crowd = {"name": name, "count": 5, "secret": SECRET, "issuer": "shop", "audience": "shop", "issued_at": 1}
    return {"port": port, "path": PATH, "shoppers": crowd, "connections": 2}
