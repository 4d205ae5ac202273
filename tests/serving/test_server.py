"""One server and its listener, in this process: who is let in, and what a stop sets in motion."""

import asyncio
import errno
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.lifespan.on import LifespanOn

from shop.app import create_app
from shop.app.server import CLOSING_SECONDS, FULL_SECONDS, ShopServer, server_config
from shop.listening import listen
from tests.harness import Shop, wait_until

ANSWER_SECONDS = 10.0
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
    found = ShopServer(server_config(create_app(settings), settings), [listener])
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


async def test_who_waits_to_be_let_in_when_the_server_stops_is_answered(server: ShopServer, listener: Listener) -> None:
    """To close the listener would reset them."""
    waiting = [come(listener) for _ in range(50)]

    await server.shutdown()

    assert {await answer(client) for client in waiting} == {b"HTTP/1.1 200 OK"}


async def test_who_comes_while_there_is_no_descriptor_left_waits(server: ShopServer, listener: Listener) -> None:
    listener.exhausted = True

    assert await answer(come(listener)) == b"HTTP/1.1 200 OK"


async def test_who_comes_to_a_full_process_waits_until_somebody_leaves(server: ShopServer, listener: Listener) -> None:
    """In the kernel, where he costs nothing; several at once are no way around it."""
    server.config.limit_concurrency = 3
    early = [socket.create_connection(listener.getsockname()) for _ in range(5)]

    async def let_in() -> bool:
        return len(server.server_state.connections) == 3

    await wait_until(let_in, reason="three are let in")
    late = come(listener)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(told := asyncio.ensure_future(answer(late))), 5 * FULL_SECONDS)
    assert await let_in()

    for client in early[:3]:
        client.close()

    assert await told == b"HTTP/1.1 200 OK"
    for client in early:
        client.close()


async def test_who_hangs_up_before_he_is_let_in_disturbs_nobody(
    server: ShopServer, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = come(listener), come(listener)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
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
