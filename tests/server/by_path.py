"""A connection to a server whose admission and application do what the path says."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from shop.server.admission import ReadKind
from shop.server.answers import Answer, Reply, WholeAnswer
from shop.server.connections import STATE, Connections
from shop.server.gate import OverloadGate
from shop.server.protocol import ShopProtocol
from shop.server.serving import server_config
from shop.server.states import State
from shop.settings import Settings
from tests.harness import wait_until

SETTINGS = Settings(_env_file=None, environment="development", redis_url="redis://nowhere")
REFUSAL = b"content-length: 4\r\n\r\nbusy"
WHOLE = WholeAnswer(409, b"content-length: 4\r\n\r\ngone")
KNOWN = Answer(409, [(b"content-length", b"4")], b"gone")
CHANGE = re.compile(r"^ +([A-Z]+) +([A-Z]+) +[a-z]", re.MULTILINE)


class Watched(ShopProtocol):
    """A connection that notes through which states it goes."""

    def __init__(self, config: Config, server_state: ServerState, connections: Connections) -> None:
        self.path: list[str] = []
        super().__init__(config, server_state, {STATE: connections})

    def __setattr__(self, name: str, value: object) -> None:
        if name == "state" and isinstance(value, State) and self.path[-1:] != [value.name]:
            self.path.append(value.name)
        super().__setattr__(name, value)


def changes_of(path: list[str]) -> set[tuple[str, str]]:
    """Each change of state on this path."""
    return set(pairwise(path))


def listed_changes() -> set[tuple[str, str]]:
    """Those in the table of `State`."""
    return set(CHANGE.findall(State.__doc__ or ""))


@dataclass
class ByPath:
    """Refuses /refused, knows /known, promises /later; what else is asked is for the application, this one too."""

    bulk_start: bytes = b"POST /bulk"
    read_kinds: tuple[ReadKind, ...] = (
        ReadKind(2, frozenset({b"GET /first"})),
        ReadKind(1, frozenset({b"GET /read/"})),
    )
    later: dict[str, "asyncio.Future[Answer]"] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def is_bulk(self, _: Scope) -> bool:
        return False

    def admit(self, scope: Scope) -> bytes | None:
        return REFUSAL if scope["path"].startswith("/refused") else None

    def begin_unparsed(self, data: bytes, reply: Reply) -> bytes | bool:
        """What is known of a whole bulk request is its path: it is refused, answered, promised, or parsed."""
        whole = data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1
        path = data.split(b" ")[1].decode() if whole else ""
        self.replies[path] = reply
        if path == "/bulk/known":
            reply(WHOLE)
        elif not path.startswith("/bulk/later"):
            return REFUSAL if path == "/bulk/refused" else False
        return True

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        self.bodies.append(body)
        if scope["path"].startswith("/later"):
            return self.later.setdefault(scope["path"], asyncio.get_running_loop().create_future())
        return KNOWN if scope["path"] == "/known" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.ran.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def promised(self, path: str) -> "asyncio.Future[Answer]":
        """The future of this path, once it was asked for."""

        async def asked() -> bool:
            return path in self.later

        await wait_until(asked, reason="it was asked for")
        return self.later[path]


class Served(NamedTuple):
    """A connection, from both its ends."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: Watched

    async def answers(self, count: int) -> list[tuple[int, bytes]]:
        """The next answers: their statuses and their bodies."""
        found = []
        for _ in range(count):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            found.append((int(head[9:12]), await self.reader.readexactly(length)))
        return found

    async def reaches(self, state: str) -> None:
        """Wait until the connection is in this state."""

        async def reached() -> bool:
            return self.protocol.path[-1] == state

        await wait_until(reached, reason=f"it is {state}")


@asynccontextmanager
async def served(admission: ByPath) -> AsyncIterator[Served]:
    """A connection to a server whose application and admission are these."""
    config, state, made = server_config(lambda: admission, SETTINGS), ServerState(), []
    config.load()
    gate = OverloadGate(delay_seconds_max=60.0, refused_at_once_max=1_000)
    connections = Connections(SETTINGS, admission, gate, on_stop=lambda: None)

    def serve() -> Watched:
        made.append(Watched(config, state, connections))
        return made[-1]

    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def accepted() -> bool:
            return len(state.connections) == 1

        await wait_until(accepted, reason="the connection is made")
        try:
            yield Served(reader, writer, made[0])
        finally:
            writer.transport.abort()


def request(path: str, *fields: str, method: str = "GET") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: shop", *fields, "", ""]).encode()
