"""HTTP by the byte: connections that send just what they are told, and that read answers as strictly as the RFC."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import msgspec

from loadtests.client.http import Address
from shop.problem_json import MEDIA_TYPE, refusals
from tests.harness import Shop

ANSWER_SECONDS = 30.0
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([ -~]*)")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([ -~\x80-\xff]*)")
BODILESS = frozenset({204, 304})

Value = TypeVar("Value")


@dataclass(frozen=True)
class Answer:
    """One answer. The names of its headers are in lower case, and none comes twice."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last one of its connection."""
        return self.headers.get("connection", "").lower() == "close"

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = msgspec.json.decode(self.body)
        return document

    def refusal(self) -> str:
        """The code of the problem document that it must be (RFC 9457)."""
        assert self.headers["content-type"] == MEDIA_TYPE, self
        document = self.json()
        assert {"type", "title", "status", "code", "request_id"} <= set(document), document
        code: str = document["code"]
        assert document["type"].endswith(f"/{code}")
        assert document["status"] == self.status
        assert code not in refusals() or refusals()[code].status == self.status
        return code


class Wire(asyncio.Protocol):
    """One connection. Every wait ends after `ANSWER_SECONDS` with a TimeoutError, unless told otherwise."""

    def __init__(self) -> None:
        self.closed_at: float | None = None
        self.was_reset = False
        self._received = bytearray()
        self._news = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def send(self, data: bytes) -> None:
        """Send what the network takes, and the rest as soon as it does. What a closed connection is told is lost."""
        self.transport.write(data)

    async def sent(self, *, within: float = ANSWER_SECONDS) -> None:
        """Return when all was handed to the network, or the server has closed."""
        await self._until(lambda: self.closed_at is not None or self.transport.get_write_buffer_size() == 0, within)

    async def begun(self, *, within: float = ANSWER_SECONDS) -> None:
        """Return when the first bytes of an answer have come, or the server has closed."""
        await self._until(lambda: self.closed_at is not None or bool(self._received), within)

    async def answer(self, method: str = "POST", *, within: float = ANSWER_SECONDS) -> Answer:
        """The next answer, which is one to a request of this method. Raises EOFError when the server closes instead."""

        def found() -> Answer | EOFError | None:
            if answer := self._parse(method):
                return answer
            return None if self.closed_at is None else EOFError(f"closed after {bytes(self._received)!r}")

        answer: Answer | EOFError = await self._until(found, within)
        if isinstance(answer, EOFError):
            raise answer
        return answer

    async def until_closed(self, *, within: float = ANSWER_SECONDS) -> None:
        """Return when the server has closed."""
        await self._until(lambda: self.closed_at is not None, within)

    async def rest(self, *, within: float = ANSWER_SECONDS) -> list[Answer]:
        """Every further answer until the server closes; nothing else may come."""
        await self.until_closed(within=within)
        answers = []
        while answer := self._parse("POST"):
            answers.append(answer)
        assert not self._received, bytes(self._received)
        return answers

    def end(self) -> None:
        """Say with a FIN that nothing more will be sent."""
        if not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self) -> None:
        """Close with a RST."""
        if self.closed_at is None and not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # It is told as soon as its buffer is empty.
        self._transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._news.set()

    def resume_writing(self) -> None:
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_at = asyncio.get_running_loop().time()
        self.was_reset = exc is not None
        self._news.set()

    async def _until(self, condition: Callable[[], Value | None], within: float) -> Value:
        async with asyncio.timeout(within):
            while not (value := condition()):
                self._news.clear()
                await self._news.wait()
        return value

    def _parse(self, method: str) -> Answer | None:
        """Cut the next answer off what was received, if all of it has come."""
        head, end, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(first)
        assert status_line, first
        status = int(status_line[1])
        headers = _headers(lines)
        if status < 200 or status in BODILESS or method == "HEAD":
            found: tuple[bytes, int] | None = (b"", 0)
        elif headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers, headers
            found = _unchunked(rest)
        elif "content-length" in headers:
            length = int(headers["content-length"])
            found = (rest[:length], length) if len(rest) >= length else None
        else:
            assert headers["connection"] == "close", headers
            found = (rest, len(rest)) if self.closed_at is not None else None
        if found is None:
            return None
        body, length = found
        del self._received[: len(head) + len(end) + length]
        return Answer(status, headers, body)


def _headers(lines: Sequence[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        header = HEADER.fullmatch(line)
        assert header, line
        name = header[1].decode().lower()
        assert name not in headers, f"{name} comes twice"
        headers[name] = header[2].decode("latin-1")
    return headers


def _unchunked(data: bytes) -> tuple[bytes, int] | None:
    """The body and how many bytes it took, if its last chunk has come."""
    body, start = b"", 0
    while True:
        line, end, _ = data[start:].partition(b"\r\n")
        if not end:
            return None
        assert re.fullmatch(rb"[0-9a-fA-F]+", line), line
        size, start = int(line, 16), start + len(line) + 2
        if len(data) < start + size + 2:
            return None
        assert data[start + size : start + size + 2] == b"\r\n", data
        body, start = body + data[start : start + size], start + size + 2
        if size == 0:
            return body, start


@asynccontextmanager
async def wire(shop: Shop, *, receive_bytes_max: int | None = None) -> AsyncIterator[Wire]:
    """A connection to a shop's API, closed at the end; its own network takes about so many bytes that nobody reads."""
    address, loop = Address.of(shop.base_url), asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes_max is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes_max)
    async with asyncio.timeout(ANSWER_SECONDS):
        await loop.sock_connect(sock, (address.host, address.port))
        _, found = await loop.create_connection(Wire, sock=sock)
    try:
        yield found
    finally:
        if found.closed_at is None:
            found.transport.abort()


@asynccontextmanager
async def wires(shop: Shop, count: int) -> AsyncIterator[list[Wire]]:
    """So many connections at once."""
    async with AsyncExitStack() as stack:
        yield list(await asyncio.gather(*(stack.enter_async_context(wire(shop)) for _ in range(count))))


async def exchange(shop: Shop, request: bytes, method: str = "POST") -> Answer:
    """The answer to a request on a connection of its own."""
    async with wire(shop) as connection:
        connection.send(request)
        return await connection.answer(method)
