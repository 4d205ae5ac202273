"""Crowds of clients that are slow on purpose: they cost themselves time, and nobody else."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import psutil
import pytest

from shop.sales.models import Sale
from tests.harness import Shop
from tests.processes import Processes, lasting
from tests.server.connections.conftest import CUT_SECONDS_MAX, REQUEST_SECONDS_MAX
from tests.server.connections.wishes import Wish, assert_sold_to, wishes
from tests.server.raw import Wire, exchange, wire, wires

SLOW = 1_000
BUYERS = 50
WINDOWS = 2
PURCHASES = 300
TICK_SECONDS = 0.01
TICKS_A_BYTE = 20
FILES_MAX = 4 * SLOW
# How much slower the buyers may be beside the slow ones: it finds a loop that is blocked, and judges no speed.
FACTOR, SECONDS_MORE = 5, 0.05

READERS = 20
HELD_UP_SECONDS = 2.0
MUCH = [
    f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode()
    for path in ("/openapi.json", *["/static-offline-docs/swagger-ui-bundle.js"] * 9)
]
MIB = 1024 * 1024
FLOOD_BYTES = 32 * MIB
FLOOD_SECONDS = 2.0


@dataclass
class Window:
    """What buyers bought side by side, each purchase a 202: the orders, and how many seconds each took."""

    orders: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def has_less_than(self, orders: int) -> Callable[[], bool]:
        return lambda: len(self.orders) < orders

    async def buy(self, sale: Sale, shop: Shop, buyers: Sequence[Wire], *, goes_on: Callable[[], bool]) -> None:
        """Let each buyer buy one unit after another, always as somebody new, as long as it goes on."""
        await asyncio.gather(*(self._buy(sale, shop, buyer, goes_on) for buyer in buyers))

    async def _buy(self, sale: Sale, shop: Shop, buyer: Wire, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            wish = Wish.of(shop, sale)
            request, started = wish.request(), time.perf_counter()
            buyer.send(request)
            self.orders.append(wish.won(await buyer.answer()))
            self.seconds.append(time.perf_counter() - started)


class SlowCrowd:
    """A request on each connection that never ends: in the head, in the body, or silent behind the head."""

    def __init__(self, connections: Sequence[Wire], requests: Sequence[bytes]) -> None:
        self._connections = connections
        self._rests: list[bytes] = []
        self._started_at: list[float] = []
        loop, head = asyncio.get_running_loop(), requests[0].index(b"\r\n\r\n") + 4
        for number, (connection, request) in enumerate(zip(connections, requests, strict=True)):
            start = 20 if number % 3 == 0 else head
            self._rests.append(b"" if number % 3 == 1 else request[start:-1])
            self._started_at.append(loop.time())
            connection.send(request[:start])

    def seconds(self) -> list[float]:
        """How long each has lasted, of those that were cut."""
        ends = [connection.closed_at for connection in self._connections]
        return [end - start for start, end in zip(self._started_at, ends, strict=True) if end is not None]

    def is_there(self) -> bool:
        """Whether it is not cut yet, as the one in its middle shows."""
        return self._connections[len(self._connections) // 2].closed_at is None

    async def trickle(self) -> None:
        """Send a byte of each request now and then, until all are cut."""
        tick = 0
        while len(self.seconds()) < len(self._connections):
            position = tick // TICKS_A_BYTE
            for number in range(tick % TICKS_A_BYTE, len(self._connections), TICKS_A_BYTE):
                if self._connections[number].closed_at is None:
                    self._connections[number].send(self._rests[number][position : position + 1])
            tick += 1
            await lasting(TICK_SECONDS)


@pytest.fixture
def many_files(api: Processes) -> Iterator[None]:
    """Both sides may have some thousand files open."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, _with_more(own))
    process = psutil.Process(api.running["api"].pid)
    if hasattr(process, "rlimit"):
        process.rlimit(resource.RLIMIT_NOFILE, _with_more(process.rlimit(resource.RLIMIT_NOFILE)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, own)


def _with_more(limits: tuple[int, int]) -> tuple[int, int]:
    soft, hard = limits
    if soft == resource.RLIM_INFINITY or soft >= FILES_MAX:
        return limits
    return FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard), hard


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_slow_clients_are_cut_in_time_and_hold_up_nobody(shop: Shop) -> None:
    """Every buyer beside them gets their 202, about as soon as without them; none of them gets anything."""
    sale = await shop.open_sale(units=20_000)
    warm = Window()
    quiet, beside = [Window() for _ in range(WINDOWS)], [Window() for _ in range(WINDOWS)]
    async with wires(shop, BUYERS) as buyers:
        await warm.buy(sale, shop, buyers, goes_on=warm.has_less_than(PURCHASES))
        for alone, crowded in zip(quiet, beside, strict=True):
            await alone.buy(sale, shop, buyers, goes_on=alone.has_less_than(PURCHASES))
            requests = [wish.request() for wish in wishes(shop, sale, SLOW)]
            async with wires(shop, SLOW) as connections:
                crowd = SlowCrowd(connections, requests)
                async with asyncio.timeout(CUT_SECONDS_MAX), asyncio.TaskGroup() as group:
                    group.create_task(crowd.trickle())
                    group.create_task(crowded.buy(sale, shop, buyers, goes_on=crowd.is_there))
                assert min(crowd.seconds()) >= REQUEST_SECONDS_MAX * 0.9
                assert max(crowd.seconds()) <= CUT_SECONDS_MAX

    assert all(len(window.orders) >= BUYERS for window in beside)
    # Slow clients would hold up the buyers in every window, a machine that is busy with other things in some.
    assert min(window.p99 for window in beside) <= FACTOR * max(window.p99 for window in quiet) + SECONDS_MORE
    await assert_sold_to(shop, sale, [order for window in (warm, *quiet, *beside) for order in window.orders])


@asynccontextmanager
async def deaf(shop: Shop, count: int) -> AsyncIterator[list[Wire]]:
    """So many connections of clients that do not read, and whose network does not take much for them."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(wire(shop, receive_bytes_max=4_096)) for _ in range(count)]
        for connection in found:
            connection.transport.pause_reading()
        yield found


async def test_clients_that_ask_much_and_never_read_hold_up_nobody(shop: Shop, api: Processes) -> None:
    """Their answers are not heaped up in memory, and others buy meanwhile. Who reads at last finds all of it."""
    sale = await shop.open_sale(units=1_000)
    process = psutil.Process(api.running["api"].pid)
    lengths = [len((await exchange(shop, request)).body) for request in MUCH]
    before, window = process.memory_info().rss, Window()
    async with wires(shop, BUYERS) as buyers, deaf(shop, READERS) as readers:
        for reader in readers:
            reader.send(b"".join(MUCH))
        await window.buy(sale, shop, buyers, goes_on=window.has_less_than(PURCHASES))
        assert max(window.seconds) < HELD_UP_SECONDS

        readers[0].transport.resume_reading()
        for length in lengths:
            assert len((await readers[0].answer()).body) == length
        assert process.memory_info().rss - before < READERS * sum(lengths) / 4
    await assert_sold_to(shop, sale, window.orders)


async def test_requests_that_are_sent_without_end_are_not_heaped_up_in_memory(shop: Shop, api: Processes) -> None:
    """They wait in the network, or the connection ends; the client reads none of the answers."""
    sale = await shop.open_sale(units=10)
    piece = Wish.of(shop, sale).request() * 100
    process, loop = psutil.Process(api.running["api"].pid), asyncio.get_running_loop()
    before, sent, end = process.memory_info().rss, 0, loop.time() + FLOOD_SECONDS
    async with deaf(shop, 1) as (flood,):
        while flood.closed_at is None and sent < FLOOD_BYTES and loop.time() < end:
            if flood.transport.get_write_buffer_size() == 0:
                flood.send(piece)
                sent += len(piece)
            await asyncio.sleep(0)

        assert process.memory_info().rss - before < FLOOD_BYTES / 2
