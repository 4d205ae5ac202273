"""What an admission may say of a request: refused, answered at once, answered later, or left to the application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog.testing
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from shop.server.answers import Answer
from shop.server.connections import STATE, Connections
from shop.server.gate import OverloadGate
from shop.server.protocol import ShopProtocol
from shop.server.serving import server_config
from shop.settings import Settings
from tests.harness import wait_until

SETTINGS = Settings(_env_file=None, environment="development")
REFUSAL = b"content-length: 4\r\n\r\nbusy"
KNOWN = Answer(409, [(b"content-length", b"4")], b"gone")


@dataclass
class ByPath:
    """Refuses /refused, knows /known, promises /later; what else is asked is for the application, this one too."""

    bulk_start: bytes = b"POST /bulk"
    later: dict[str, "asyncio.Future[Answer]"] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def is_bulk(self, _: Scope) -> bool:
        return False

    def admit(self, scope: Scope) -> bytes | None:
        return REFUSAL if scope["path"].startswith("/refused") else None

    def admit_unparsed(self, _: bytes) -> bytes | None:
        return None

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        self.bodies.append(body)
        if scope["path"].startswith("/later"):
            return self.later.setdefault(scope["path"], asyncio.get_running_loop().create_future())
        return KNOWN if scope["path"] == "/known" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.ran.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(admission: ByPath) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, ServerState]]:
    """A connection to a server whose application and admission are these."""
    config, state = server_config(lambda: admission, SETTINGS), ServerState()
    config.load()
    gate = OverloadGate(delay_seconds_max=60.0, refused_at_once_max=1_000)
    connections = Connections(SETTINGS, admission, gate, on_stop=lambda: None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: ShopProtocol(config, state, {STATE: connections}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer, state
        finally:
            writer.transport.abort()


def get(path: str, *, method: str = "GET", fields: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n".encode()


async def statuses(reader: asyncio.StreamReader, count: int) -> list[tuple[int, bytes]]:
    """The next answers: their statuses and their bodies."""
    found = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append((int(head[9:12]), await reader.readexactly(length)))
    return found


async def promised(admission: ByPath, path: str) -> "asyncio.Future[Answer]":
    """The future of this path, once it was asked for."""

    async def asked() -> bool:
        return path in admission.later

    await wait_until(asked, reason="it was asked for")
    return admission.later[path]


async def test_an_answer_may_come_later_without_a_task_and_keeps_its_order() -> None:
    """What stands behind it waits, whether it is known at once or not."""
    admission = ByPath()
    async with served(admission) as (reader, writer, state):
        before = len(asyncio.all_tasks())
        writer.write(get("/known") + get("/later/1") + get("/known") + get("/later/2") + get("/other"))
        assert await statuses(reader, 1) == [(409, b"gone")]
        first = await promised(admission, "/later/1")
        assert len(asyncio.all_tasks()) == before
        pending: set[object] = {first}
        assert state.tasks == pending

        first.set_result(Answer(202, [(b"content-length", b"5")], b"first"))
        (await promised(admission, "/later/2")).set_result(Answer(202, [(b"content-length", b"6")], b"second"))

        found = await statuses(reader, 4)
        assert found == [(202, b"first"), (409, b"gone"), (202, b"second"), (200, b"ok")]
        assert admission.ran == ["/other"]
        assert state.tasks == set()


async def test_an_answer_is_asked_for_with_the_whole_body() -> None:
    """However it is cut."""
    admission = ByPath()
    async with served(admission) as (reader, writer, _):
        writer.write(get("/known", method="POST", fields="Content-Length: 6\r\n") + b"abc")
        await asyncio.sleep(0.01)
        writer.write(b"def")

        assert await statuses(reader, 1) == [(409, b"gone")]
    assert admission.bodies == [b"abcdef"]


async def test_an_answer_that_fails_later_is_500_and_the_next_request_is_answered() -> None:
    admission = ByPath()
    async with served(admission) as (reader, writer, _):
        writer.write(get("/later/1") + get("/known"))
        with structlog.testing.capture_logs() as logs:
            (await promised(admission, "/later/1")).set_exception(ValueError("nobody has thought of this"))
            (status, body), known = await statuses(reader, 2)

    assert (status, known) == (500, (409, b"gone"))
    assert [(entry["event"], entry["path"]) for entry in logs] == [("unforeseen", "/later/1")]
    assert logs[0]["request_id"].encode() in body


async def test_an_answer_that_is_cancelled_ends_its_connection_without_one() -> None:
    """What became of it is unknown."""
    admission = ByPath()
    async with served(admission) as (reader, writer, state):
        writer.write(get("/later/1") + get("/known"))
        (await promised(admission, "/later/1")).cancel()

        assert await reader.read() == b""
        assert state.tasks == set()


async def test_an_answer_for_a_client_that_is_gone_is_dropped() -> None:
    """What was begun goes on all the same."""
    admission = ByPath()
    async with served(admission) as (_, writer, state):
        writer.write(get("/later/1"))
        later = await promised(admission, "/later/1")
        writer.transport.abort()

        async def lost() -> bool:
            return not state.connections

        await wait_until(lost, reason="the connection is lost")
        with structlog.testing.capture_logs() as logs:
            later.set_result(KNOWN)
            await asyncio.sleep(0)

    assert not later.cancelled()
    assert (logs, state.tasks) == ([], set())


@pytest.mark.parametrize(("fields", "closes"), [("", False), ("Connection: close\r\n", True)])
async def test_a_request_behind_others_is_asked_for_when_its_answer_is_the_next_one(fields: str, closes: bool) -> None:
    """Its refusal stands where its answer would, and ends the connection where the answer would."""
    admission = ByPath()
    async with served(admission) as (reader, writer, _):
        writer.write(get("/other") + get("/refused/1") + get("/refused/2", fields=fields))
        assert await statuses(reader, 2) == [(200, b"ok"), (503, b"busy")]
        last = await reader.readuntil(b"busy")
        assert last.startswith(b"HTTP/1.1 503 ")
        assert (b"connection: close" in last) is closes
        if closes:
            assert await reader.read() == b""
    assert (admission.ran, admission.bodies) == (["/other"], [b""])
