"""Who listens in place of a server, and where that server is."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from loadtests.chaos.connection import CHUNK_BYTES, Address, Connection
from loadtests.chaos.network import Mode, Network, Pass, Refuse

HOST = "127.0.0.1"
CONNECTIONS_MAX = 4_096


class ChaosProxy:
    """Stands before the server of one URL; `url` is the same by way of the proxy."""

    def __init__(self, url: str, *, seed: int = 1) -> None:
        self._server = _address(url)
        self._network = Network(seed=seed)
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._listener: asyncio.Server | None = None
        # Bound, and never listening: it keeps the port for us while nobody is to listen there.
        self._reservation = _bound(0)
        self._port: int = self._reservation.getsockname()[1]
        self.url = _by_way_of(self._port, url)

    @property
    def mode(self) -> Mode:
        """What is in force."""
        return self._network.mode

    @property
    def injected(self) -> int:
        """How often a `Cut`, `LoseRequest` or `LoseReply` was injected so far."""
        return self._network.injected

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    async def be(self, mode: Mode) -> None:
        """From now on, this is in force."""
        self._network.switch(mode)
        if isinstance(mode, Refuse):
            self._stop_listening()
        elif self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=_bound(self._port), limit=CHUNK_BYTES)

    def lead_to(self, url: str) -> None:
        """From now on, new connections go to another server; those that there are stay where they are."""
        self._server = _address(url)

    def reset_all(self) -> None:
        """Reset every connection that there is now."""
        for connection in self._connections.values():
            connection.reset()

    async def close(self) -> None:
        """End everything."""
        self._stop_listening()
        self._reservation.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._network, reader, writer)
        if len(self._connections) >= CONNECTIONS_MAX:
            connection.reset()
            return
        task = asyncio.create_task(connection.run(self._server))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)


@asynccontextmanager
async def chaos_proxy(url: str, *, seed: int = 1) -> AsyncIterator[ChaosProxy]:
    """A proxy before the server of this URL: a Valkey or a PostgreSQL, also at a Unix socket, or an API."""
    proxy = ChaosProxy(url, seed=seed)
    try:
        await proxy.be(Pass())
        yield proxy
    finally:
        await proxy.close()


def _address(url: str) -> Address:
    """Where the server of this URL listens: at a port, or at a socket as redis-py and asyncpg name it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        return Path(parts.path)
    if "host" in query:
        return Path(query["host"]) / f".s.PGSQL.{query['port']}"
    if parts.hostname is None or parts.port is None:
        raise ValueError("the URL of a server behind a proxy names its host and its port")
    return parts.hostname, parts.port


def _by_way_of(port: int, url: str) -> str:
    """The URL with this port of the loopback in place of where its server listens."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"host", "port"}]
    moved = parts._replace(netloc=f"{user}{at}{HOST}:{port}", query=urlencode(query))
    return urlunsplit(moved._replace(scheme="redis", path="") if parts.scheme == "unix" else moved)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound
