"""One server and its listener, in this process: what is accepted, and what a stop sets in motion."""

import asyncio
import errno
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from uvicorn.lifespan.on import LifespanOn

from shop.app.factory import create_app
from shop.listening_sockets import listen
from shop.server.serving import ShopServer, server_config
from shop.stopping import CLOSING_SECONDS
from tests.harness import Shop, wait_until

ANSWER_SECONDS = 30.0
RESET = struct.pack("ii", 1, 0)  # Linger for no time: to close is to reset.
REQUEST = b"GET /livez HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"


class Listener(socket.socket):
    """A listener that can fail once, as one does when the process has no descriptor left."""

    exhausted = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self.exhausted:
            self.exhausted = False
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def listener() -> Listener:
    """A listener of this process."""
    [bound] = listen("127.0.0.1", 0, processes=1)
    found = Listener(fileno=bound.detach())
    found.setblocking(False)
    return found


@pytest.fixture
async def server(live_shop: Shop, listener: Listener) -> AsyncIterator[ShopServer]:
    """A server of the running shop that serves at the listener, and that has been stopped when the test is over."""
    settings = live_shop.settings
    found = ShopServer(server_config(partial(create_app, settings), settings), [listener])
    found.config.load()
    found.lifespan = LifespanOn(found.config)
    await found.startup()
    yield found
    if listener.fileno() >= 0:
        await found.shutdown()


def come(listener: Listener) -> socket.socket:
    """A client that the kernel has accepted, and that has sent its request, before this process can know of it."""
    client = socket.create_connection(listener.getsockname())
    client.sendall(REQUEST)
    client.setblocking(False)
    return client


async def answer(client: socket.socket) -> bytes:
    """The first line that the client is told. Raises ConnectionResetError."""
    async with asyncio.timeout(ANSWER_SECONDS):
        told = await asyncio.get_running_loop().sock_recv(client, 1024)
    client.close()
    return told.split(b"\r\n")[0]


async def test_the_backlog_is_answered_when_the_server_stops(server: ShopServer, listener: Listener) -> None:
    """To close the listener would reset them."""
    waiting = [come(listener) for _ in range(50)]

    await server.shutdown()

    assert {await answer(client) for client in waiting} == {b"HTTP/1.1 200 OK"}


async def test_who_comes_while_there_is_no_descriptor_left_waits(server: ShopServer, listener: Listener) -> None:
    listener.exhausted = True

    assert await answer(come(listener)) == b"HTTP/1.1 200 OK"


def ask(listener: Listener, path: str, *, from_address: str = "127.0.0.1") -> socket.socket:
    """A client from this address of the loopback that has asked for a path."""
    client = socket.create_connection(listener.getsockname(), source_address=(from_address, 0))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
    client.setblocking(False)
    return client


async def until_open(server: ShopServer, count: int) -> None:
    async def opened() -> bool:
        return len(server.server_state.connections) == count

    await wait_until(opened, reason=f"{count} connections are open")


async def test_a_full_process_answers_probes_and_tells_others_to_come_back(
    server: ShopServer, listener: Listener
) -> None:
    """Those who are in the midst of a request keep their connections."""
    server.config.limit_concurrency = 3
    busy = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    for client in busy:
        client.sendall(b"GET /version HTTP/1.1\r\nHost: shop\r\n")
    await until_open(server, 3)

    assert await answer(ask(listener, "/livez")) == b"HTTP/1.1 200 OK"
    assert await answer(ask(listener, "/readyz")) in {b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable"}
    assert await answer(ask(listener, "/version")) == b"HTTP/1.1 503 Service Unavailable"

    for client in busy:
        client.close()
    await until_open(server, 0)
    assert await answer(ask(listener, "/version")) == b"HTTP/1.1 200 OK"


async def test_idle_connections_are_closed_when_others_wait(server: ShopServer, listener: Listener) -> None:
    """However many were opened before them."""
    server.config.limit_concurrency = 3
    idle = [socket.create_connection(listener.getsockname()) for _ in range(40)]

    assert await answer(ask(listener, "/version")) == b"HTTP/1.1 200 OK"
    for client in idle:
        client.close()


async def test_one_address_does_not_take_all_connections(server: ShopServer, listener: Listener) -> None:
    """Half of them at most, and those of a trusted proxy are not one client's."""
    server.config.limit_concurrency = 8
    greedy = [socket.create_connection(listener.getsockname(), source_address=("127.0.3.1", 0)) for _ in range(12)]
    for client in greedy:
        client.setblocking(False)
    await until_open(server, 4)

    loop = asyncio.get_running_loop()
    for client in greedy[4:]:
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(loop.sock_recv(client, 1), ANSWER_SECONDS) == b""
    assert await answer(ask(listener, "/version", from_address="127.0.3.2")) == b"HTTP/1.1 200 OK"
    assert {await answer(ask(listener, "/version")) for _ in range(6)} == {b"HTTP/1.1 200 OK"}
    greedy[0].close()
    await until_open(server, 3)
    assert await answer(ask(listener, "/version", from_address="127.0.3.1")) == b"HTTP/1.1 200 OK"
    for client in greedy:
        client.close()


async def test_a_connection_that_was_reset_is_counted_no_more(server: ShopServer, listener: Listener) -> None:
    """Else an address would be refused for as long as the process lives, once it has reset as many as it may have."""
    server.config.limit_concurrency = 4
    for _ in range(4):
        client = socket.create_connection(listener.getsockname(), source_address=("127.0.3.3", 0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n")
        client.setblocking(False)
        assert await answer(client) == b"HTTP/1.1 200 OK"
        await until_open(server, 0)

    assert await answer(ask(listener, "/version", from_address="127.0.3.3")) == b"HTTP/1.1 200 OK"


async def test_a_client_that_hangs_up_before_it_is_accepted_disturbs_nobody(
    server: ShopServer, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = come(listener), come(listener)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    gone.close()

    assert await answer(stays) == b"HTTP/1.1 200 OK"
    assert caplog.records == []


async def test_a_stop_that_takes_too_long_is_ended_by_the_kernel(server: ShopServer) -> None:
    """Whatever the process does then: it has set an alarm."""
    before = signal.getsignal(signal.SIGINT)
    try:
        server.handle_exit(signal.SIGTERM, None)
    finally:
        left_seconds = signal.alarm(0)
        signal.signal(signal.SIGINT, before)

    assert left_seconds == (server.config.timeout_graceful_shutdown or 0) + CLOSING_SECONDS
