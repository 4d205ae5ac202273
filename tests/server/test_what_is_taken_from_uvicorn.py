"""What the shop takes from uvicorn although no document of uvicorn promises it, one thing a test.

pyproject.toml has a ceiling for uvicorn because of these. A test that is red with a newer uvicorn names the lines of
the shop that have to follow before the ceiling is raised.
"""

import asyncio
import inspect
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import FrameType
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import HANDLED_SIGNALS, ServerState

from shop.file_descriptors import connections_cap
from shop.processes import START_FAILED
from shop.server.protocol import ShopProtocol
from shop.server.serving import TICKS_PER_HEARTBEAT, server_config
from shop.settings import Settings
from tests.harness import DEADLINE_SECONDS

SETTINGS = Settings(_env_file=None, environment="development")
MOMENT_SECONDS = 0.02


class Application:
    """An application that has a lifespan, in which it leaves itself in the state, and answers no request."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["application"] = self
        for _ in range(2):
            event = (await receive())["type"]
            self.told.append(event)
            await send({"type": f"{event}.complete"})


class Connection:
    """A connection of the server; it ends a moment after it was asked to."""

    def __init__(self, state: ServerState) -> None:
        self.was_asked = False
        self._state = state
        state.connections.add(self)  # type: ignore[arg-type]

    def shutdown(self) -> None:
        self.was_asked = True
        asyncio.get_running_loop().call_later(MOMENT_SECONDS, self._state.connections.discard, self)


class Steps(uvicorn.Server):
    """Notes what is called in which order, as ShopServer hooks into it, and stops itself after some ticks."""

    def __init__(self, config: uvicorn.Config, *, ticks: int) -> None:
        super().__init__(config)
        self.steps: list[str] = []
        self.ticked_at: list[float] = []
        self._ticks = ticks

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.steps.append("startup")
        await super().startup([])
        asyncio.get_running_loop().call_soon(self.steps.append, "loop")

    async def on_tick(self, counter: int) -> bool:
        self.steps.append(f"tick {counter}")
        self.ticked_at.append(asyncio.get_running_loop().time())
        self.should_exit = len(self.ticked_at) == self._ticks
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.steps.append("shutdown")
        await super().shutdown([])


def server_of(application: ASGIApp) -> uvicorn.Server:
    """uvicorn's own server with the configuration of the shop's, so far that it can start."""
    server = uvicorn.Server(server_config(lambda: application, SETTINGS))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    return server


@asynccontextmanager
async def transport_of(sock: socket.socket) -> AsyncIterator[asyncio.Transport]:
    """The transport of this end of a connection, closed at the end."""
    sock.setblocking(False)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, sock)
    yield transport
    transport.abort()


def test_a_protocol_is_made_of_the_configuration_the_servers_state_and_the_applications_state() -> None:
    """`ShopServer._protocol` makes a ShopProtocol where uvicorn would make a protocol of its own.

    What uvicorn's are given besides, ours would be without. A loop is only given to those that are made elsewhere.
    """
    theirs = list(inspect.signature(HttpToolsProtocol).parameters)

    assert theirs == ["config", "server_state", "app_state", "_loop"]
    assert list(inspect.signature(ShopProtocol).parameters) == theirs[:3]


def test_a_server_state_is_three_collections_and_a_count() -> None:
    """ShopProtocol adds itself to `connections` and Exchange its task to `tasks`: a stop waits for what is in them.

    Both write `default_headers` into each answer. The count is for a limit that the shop does not set. A fifth member
    would be one more thing that each protocol has to keep.
    """
    assert vars(ServerState()) == {"total_requests": 0, "connections": set(), "tasks": set(), "default_headers": []}


async def test_the_servers_headers_are_a_new_list_each_second_and_the_same_one_within_it() -> None:
    """`answer_head` and `AdmissionControl` compare the list by identity to know whether their bytes are old.

    If uvicorn changed one list in place, the Date of every answer would stand still. If it made a new list for each
    tick or each request, the bytes would be made anew for every answer.
    """
    server = server_of(Application())
    await server.on_tick(0)
    first, content = server.server_state.default_headers, list(server.server_state.default_headers)
    for counter in range(1, TICKS_PER_HEARTBEAT):
        await server.on_tick(counter)
        assert server.server_state.default_headers is first

    await server.on_tick(TICKS_PER_HEARTBEAT)

    assert server.server_state.default_headers is not first
    assert first == content


async def test_the_servers_headers_are_the_date_and_those_of_the_configuration_as_bytes() -> None:
    """`answer_head` joins them as they are: text would be a TypeError in every answer.

    Without the Date a client could not tell how long it is until `starts_at`; with `server` every answer would be
    longer; and the pages rely on `nosniff`.
    """
    server = server_of(Application())

    await server.on_tick(0)

    (name, date), *others = server.server_state.default_headers
    assert name == b"date"
    assert abs(datetime.now(UTC) - parsedate_to_datetime(date.decode())) < timedelta(seconds=DEADLINE_SECONDS)
    assert others == [(b"x-content-type-options", b"nosniff")]


async def test_a_server_starts_ticks_and_stops_and_its_first_tick_is_before_anything_is_read() -> None:
    """ShopServer accepts from the end of `startup` on, and hooks into all three.

    Were the loop to run between `startup` and the first tick, the first answers would have neither a Date nor
    `nosniff`, because `default_headers` is empty until then.
    """
    server = Steps(server_config(Application, SETTINGS), ticks=2)

    await server._serve()

    assert server.steps == ["startup", "tick 0", "loop", "tick 1", "shutdown"]


async def test_a_server_ticks_ten_times_a_second_and_counts() -> None:
    """`ShopServer.on_tick` tells the parent once in `TICKS_PER_HEARTBEAT` ticks that it serves.

    If it ticked more seldom, or counted otherwise, a process that is well would be killed as stuck; and a stop waits
    for the next tick.
    """
    server = Steps(server_config(Application, SETTINGS), ticks=6)

    await server._serve()

    assert [step for step in server.steps if step.startswith("tick")] == [f"tick {number}" for number in range(6)]
    seconds = [later - earlier for earlier, later in zip(server.ticked_at, server.ticked_at[1:], strict=False)]
    # The shortest, because a busy machine only makes them longer.
    assert 0.9 < min(seconds) * TICKS_PER_HEARTBEAT < 2.0


async def test_a_tick_ends_the_server_when_and_only_when_it_is_to_exit() -> None:
    """`ShopServer.handle_exit` sets `should_exit` and nothing else; no number of requests ends a process."""
    server = server_of(Application())
    server.server_state.total_requests = 1_000_000_000

    assert await server.on_tick(1) is False
    server.should_exit = True
    assert await server.on_tick(1) is True


async def test_without_listeners_a_server_binds_nothing_and_has_started() -> None:
    """`ShopServer.startup` passes `[]` because it accepts by itself, and `None` would bind the configuration's port.

    Every process of the pool would then try to listen there beside its own listener, and all but one would end. Only
    a server that has `started` is shut down.
    """
    server = server_of(Application())
    with socket.create_server((server.config.host, 0)) as taken:
        server.config.port = taken.getsockname()[1]

        await server.startup([])

    assert (server.servers, server.started) == ([], True)
    await server.shutdown([])


async def test_what_the_application_leaves_in_its_state_is_in_that_of_the_lifespan() -> None:
    """`ShopServer` and each ShopProtocol find the process's Connections in `lifespan.state`, under `STATE`."""
    application = Application()
    server = server_of(application)

    await server.startup([])

    assert server.lifespan.state == {"application": application}
    assert server.lifespan.state["application"] is application
    await server.shutdown([])


async def test_an_application_that_cannot_start_ends_the_process_with_the_status_for_that() -> None:
    """The status of `shop api` with one process is uvicorn's; with several it is `START_FAILED` of the pool.

    `shop.cli.servers` tells an API that did not start by that one number.
    """

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "there is no Redis"})

    with pytest.raises(SystemExit) as ended:
        await server_of(fails).startup([])

    assert ended.value.code == START_FAILED


def test_the_configuration_calls_the_factory_and_wraps_nothing_around_its_application() -> None:
    """ShopProtocol runs `loaded_app` for each request, and answers some without it.

    uvicorn's own middleware would believe a proxy before `Forwarded` looks who it is, and cost every purchase.
    """
    application = Application()
    config = server_config(lambda: application, SETTINGS)

    config.load()

    assert config.loaded_app is application


def test_the_configuration_keeps_its_two_bounds_under_their_names() -> None:
    """ShopServer accepts at most `limit_concurrency` connections: without it, it would accept those of probes alone.

    `handle_exit` sets an alarm for a little more than `timeout_graceful_shutdown`.
    """
    config = server_config(Application, SETTINGS)

    assert config.limit_concurrency == connections_cap(SETTINGS)
    assert config.timeout_graceful_shutdown == SETTINGS.graceful_stop_seconds


async def test_a_stop_asks_each_connection_and_waits_until_it_has_left() -> None:
    """`ShopProtocol.shutdown` lets what is in hand be answered, and `connection_lost` takes it off the list.

    If the lifespan ended before that, the last requests would meet closed pools of Redis and Postgres.
    """
    application = Application()
    server = server_of(application)
    await server.startup([])
    connection = Connection(server.server_state)

    async def in_hand() -> None:
        await asyncio.sleep(MOMENT_SECONDS)
        application.told.append("in hand")

    task = asyncio.create_task(in_hand())
    server.server_state.tasks.add(task)
    task.add_done_callback(server.server_state.tasks.discard)

    await server.shutdown([])

    assert connection.was_asked
    assert server.server_state.connections == set()
    assert application.told == ["lifespan.startup", "in hand", "lifespan.shutdown"]


async def test_a_stop_that_takes_too_long_cancels_the_tasks_and_ends_the_lifespan() -> None:
    """`Exchange._run` closes the connection of a request that is cancelled, so that nobody waits for its answer.

    Were the tasks left alone, a stop with a request that hangs would always end by `handle_exit`'s alarm: the metrics
    and the tally of the process would be lost.
    """
    application = Application()
    server = server_of(application)
    await server.startup([])
    server.config.timeout_graceful_shutdown = 0
    task = asyncio.create_task(asyncio.sleep(DEADLINE_SECONDS))
    server.server_state.tasks.add(task)

    await server.shutdown([])

    assert application.told[-1] == "lifespan.shutdown"
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_server_takes_both_signals_by_its_method_and_gives_them_back() -> None:
    """`ShopServer.handle_exit` stops the process; `_serve`, by which the tests run it, leaves the signals alone.

    uvicorn raises again what its own `handle_exit` has noted. Ours notes nothing, so `shop api` ends with status 0.
    """
    raised: list[int] = []

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.should_exit = True

    before = {number: signal.signal(number, lambda number, _: raised.append(number)) for number in HANDLED_SIGNALS}
    try:
        server = Server(server_config(Application, SETTINGS))
        with server.capture_signals():
            signal.raise_signal(signal.SIGTERM)
        assert server.should_exit
        assert raised == []
        signal.raise_signal(signal.SIGINT)
        assert raised == [signal.SIGINT]
        await Steps(server_config(Application, SETTINGS), ticks=1)._serve()
        signal.raise_signal(signal.SIGTERM)
        assert raised == [signal.SIGINT, signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(HANDLED_SIGNALS) == {signal.SIGINT, signal.SIGTERM}


async def test_addresses_are_pairs_and_the_peer_of_a_local_socket_has_none() -> None:
    """ShopProtocol puts both into the scope; `Forwarded` compares the peer's first part with the trusted proxies.

    None is a local socket (`unix:` among the trusted proxies). So it is for a peer that has reset the connection, which
    is why `ConnectionCap` counts by what `accept` said.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, address = listener.accept()
        async with transport_of(accepted) as transport:
            assert get_remote_addr(transport) == address == client.getsockname()
            assert get_local_addr(transport) == listener.getsockname()
            assert is_ssl(transport) is False
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            assert get_remote_addr(transport) is None
    here, there = socket.socketpair(socket.AF_UNIX)
    with there:
        async with transport_of(here) as transport:
            assert get_remote_addr(transport) is None
            assert get_local_addr(transport) == ("", None)


async def test_each_request_of_uvicorns_protocol_has_a_state_of_its_own_and_its_transport() -> None:
    """`CuttableProtocol` of the sandbox leaves there how to cut the connection of this request.

    With one state for all requests, the sandbox would cut the connection of another shop's call.
    """
    config, here_and_there = uvicorn.Config(Application(), log_config=None), socket.socketpair()
    config.load()
    with here_and_there[1]:
        async with transport_of(here_and_there[0]) as transport:
            protocol = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={"known": 1})
            protocol.connection_made(transport)
            protocol.on_message_begin()
            first: Any = protocol.scope["state"]
            first["cut"] = protocol.transport.abort
            protocol.on_message_begin()

            assert protocol.transport is transport
            assert protocol.scope["state"] == {"known": 1}
