"""The proxy that misbehaves on command, between a client and a server that echoes what it gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loadtests.chaos import (
    ChaosProxy,
    Cut,
    Delay,
    LoseReply,
    LoseRequest,
    Pass,
    Refuse,
    Stall,
    Trickle,
    Way,
    chaos_proxy,
)
from tests.harness import wait_until

SILENCE_SECONDS = 0.2  # what does not come in this time is taken not to come
SECONDS_MAX = 10.0


@dataclass
class Echo:
    """Echoes each connection's bytes; `got` has them all. One that says `bye` is closed."""

    url: str = ""
    got: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.got += data
                if data == b"bye":
                    break
                writer.write(data)
                await writer.drain()
            writer.write(b"")
        writer.close()

    async def until_got(self, data: bytes) -> None:
        """Wait until exactly this has come."""

        async def got() -> bool:
            return bytes(self.got) == data

        await wait_until(got, reason=f"the server got {data!r}")


@asynccontextmanager
async def echo_server(path: Path | None = None) -> AsyncIterator[Echo]:
    echo = Echo()
    if path is None:
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
        echo.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(echo.serve, path)
        echo.url = f"unix://{path}"
    try:
        yield echo
    finally:
        server.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with echo_server() as server:
        yield server


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[ChaosProxy]:
    async with chaos_proxy(echo.url) as between:
        yield between


@dataclass
class Client:
    """One connection to the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reads(self, number: int) -> bytes:
        """So many bytes. Raises IncompleteReadError or ConnectionResetError when the connection ends before."""
        async with asyncio.timeout(SECONDS_MAX):
            return await self.reader.readexactly(number)

    async def echoes(self, data: bytes) -> bool:
        """Whether this comes back."""
        self.send(data)
        return await self.reads(len(data)) == data

    async def hears_nothing(self) -> bool:
        """Whether neither a byte nor an end comes."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


async def connect(proxy: ChaosProxy) -> Client:
    address = urlsplit(proxy.url)
    return Client(*await asyncio.open_connection(address.hostname, address.port))


@pytest.mark.parametrize("server", ["tcp", "unix"])
async def test_what_is_sent_arrives_unchanged_in_both_ways(tmp_path: Path, server: str) -> None:
    data = bytes(range(256)) * 8_000
    async with (
        echo_server(tmp_path / "echo.sock" if server == "unix" else None) as echo,
        chaos_proxy(echo.url) as proxy,
    ):
        client = await connect(proxy)
        assert await client.echoes(data)


async def test_when_a_client_has_said_all_its_answer_still_comes(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    client.send(b"all")
    client.writer.write_eof()

    assert await client.reader.read() == b"all"


async def test_a_delay_takes_its_time_and_keeps_the_order(proxy: ChaosProxy) -> None:
    await proxy.be(Delay(0.02, jitter_seconds=0.02))
    client = await connect(proxy)
    begun = asyncio.get_running_loop().time()

    assert all([await client.echoes(b"message %d" % number) for number in range(3)])
    assert asyncio.get_running_loop().time() - begun >= 3 * 2 * 0.02


async def test_in_a_stalled_network_nothing_passes_and_then_all_of_it(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    assert await client.echoes(b"first")
    await proxy.be(Stall())
    client.send(b"second")

    assert await client.hears_nothing()
    assert echo.got == b"first"
    await proxy.be(Pass())
    assert await client.reads(6) == b"second"


async def test_one_way_may_stall_alone(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(Stall(frozenset({Way.TO_CLIENT})))
    client.send(b"request")

    await echo.until_got(b"request")
    assert await client.hears_nothing()


async def test_a_stalled_network_does_not_tell_that_the_server_has_gone(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(Stall(frozenset({Way.TO_CLIENT})))
    client.send(b"bye")
    await echo.until_got(b"bye")

    assert await client.hears_nothing()
    await proxy.be(Pass())
    assert await client.reader.read() == b""


async def test_who_sends_into_a_stalled_network_is_held_up(proxy: ChaosProxy) -> None:
    """What the proxy keeps is bounded, so the rest stays with its sender."""
    client = await connect(proxy)
    await proxy.be(Stall())
    client.send(bytes(64 * 1024 * 1024))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_SECONDS):
            await client.writer.drain()


async def test_a_reset_ends_all_connections_that_there_are(proxy: ChaosProxy) -> None:
    clients = [await connect(proxy) for _ in range(3)]
    assert all([await client.echoes(b"here") for client in clients])
    proxy.reset_all()

    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.reads(1)
    assert await (await connect(proxy)).echoes(b"again")


async def test_an_answer_is_cut_after_so_many_bytes(proxy: ChaosProxy) -> None:
    client = await connect(proxy)
    await proxy.be(Cut(5, Way.TO_CLIENT))
    client.send(b"abcdefgh")

    assert await client.reads(5) == b"abcde"
    with pytest.raises(ConnectionResetError):
        await client.reads(1)


async def test_a_request_is_cut_after_so_many_bytes(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(Cut(5, Way.TO_SERVER))
    client.send(b"abc")
    await echo.until_got(b"abc")
    client.send(b"defgh")

    await echo.until_got(b"abcde")


async def test_after_so_many_cuts_everything_passes(proxy: ChaosProxy) -> None:
    await proxy.be(Cut(0, Way.TO_SERVER, times=2))
    for _ in range(2):
        client = await connect(proxy)
        client.send(b"lost")
        with pytest.raises(ConnectionResetError):
            await client.reads(1)

    assert await (await connect(proxy)).echoes(b"passes")
    assert (proxy.injected, proxy.mode) == (2, Pass())


async def test_a_lost_request_never_arrives_and_others_pass(proxy: ChaosProxy, echo: Echo) -> None:
    unlucky, other = await connect(proxy), await connect(proxy)
    await proxy.be(LoseRequest(b"marked"))
    assert await other.echoes(b"plain")
    unlucky.send(b"a marked one")

    assert await unlucky.hears_nothing()
    unlucky.send(b"more")
    assert await unlucky.hears_nothing()
    assert await other.echoes(b"marked")
    assert echo.got == b"plainmarked"


async def test_a_lost_reply_is_to_a_request_that_was_delivered(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(LoseReply(b"marked"))
    assert await client.echoes(b"plain")
    client.send(b"marked")

    await echo.until_got(b"plainmarked")
    assert await client.hears_nothing()


async def test_the_reply_may_be_lost_in_a_reset(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(LoseReply(reset=True))
    client.send(b"request")

    with pytest.raises(ConnectionResetError):
        await client.reads(1)
    assert echo.got == b"request"


async def test_a_marker_that_comes_in_pieces_is_found(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    await proxy.be(LoseRequest(b"marked"))
    client.send(b"mar")
    assert await client.reads(3) == b"mar"
    client.send(b"ked")

    assert await client.hears_nothing()
    assert (proxy.injected, bytes(echo.got)) == (1, b"mar")


async def test_what_trickles_arrives_in_its_time_and_complete(proxy: ChaosProxy) -> None:
    await proxy.be(Trickle(bytes_per_second=5_000))
    client, data = await connect(proxy), bytes(range(250)) * 4
    begun = asyncio.get_running_loop().time()

    assert await client.echoes(data)
    assert asyncio.get_running_loop().time() - begun >= 0.9 * len(data) / 5_000


async def test_a_trickle_that_ends_lets_the_rest_pass(proxy: ChaosProxy, echo: Echo) -> None:
    await proxy.be(Trickle(bytes_per_second=50))
    client, data = await connect(proxy), bytes(30_000)
    client.send(data)
    await client.reads(1)
    await proxy.be(Pass())

    await client.reads(len(data) - 1)
    assert echo.got == data


async def test_a_server_that_refuses_lets_old_connections_go_on_and_comes_back(proxy: ChaosProxy) -> None:
    client = await connect(proxy)
    await proxy.be(Refuse())

    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    assert await client.echoes(b"goes on")
    await proxy.be(Pass())
    assert await (await connect(proxy)).echoes(b"back")


async def test_a_server_that_is_not_there_resets_whoever_comes(tmp_path: Path) -> None:
    async with chaos_proxy(f"unix://{tmp_path}/nobody.sock") as proxy:
        client = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await client.reads(1)


async def test_new_connections_may_be_led_to_another_server(proxy: ChaosProxy, echo: Echo) -> None:
    client = await connect(proxy)
    assert await client.echoes(b"old")
    async with echo_server() as other:
        proxy.lead_to(other.url)
        assert await (await connect(proxy)).echoes(b"new")
        assert await client.echoes(b"older")

        assert (bytes(echo.got), bytes(other.got)) == (b"oldolder", b"new")


async def test_at_its_end_nothing_is_left(echo: Echo) -> None:
    async with chaos_proxy(echo.url) as proxy:
        clients = [await connect(proxy) for _ in range(3)]
        assert all([await client.echoes(b"here") for client in clients])
        await proxy.be(Stall())
        clients[0].send(b"held")

    assert proxy.connections == 0
    for client in clients:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await client.reads(1)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)


@pytest.mark.parametrize(
    ("url", "by_way"),
    [
        ("unix://me:secret@/tmp/valkey.sock?db=3", "redis://me:secret@127.0.0.1:{port}?db=3"),
        ("redis://valkey:6379/2", "redis://127.0.0.1:{port}/2"),
        ("postgresql+asyncpg://shop@/shop?host=/tmp&port=5432", "postgresql+asyncpg://shop@127.0.0.1:{port}/shop"),
        ("postgresql+asyncpg://shop:x@db:5432/shop", "postgresql+asyncpg://shop:x@127.0.0.1:{port}/shop"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:{port}"),
    ],
)
async def test_a_url_by_way_of_the_proxy_keeps_all_but_the_place(url: str, by_way: str) -> None:
    async with chaos_proxy(url) as proxy:
        assert proxy.url == by_way.format(port=urlsplit(proxy.url).port)
