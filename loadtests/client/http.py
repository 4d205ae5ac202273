"""A small, fast HTTP/1.1 client: kept-alive connections to one address, one request at a time on each.

A general client costs ten times as much CPU a request, and would measure its own machine instead of the shop. This one
does without TLS, redirects and cookies, and understands answers that say where they end (Content-Length or chunked).

HttpError                  the exchange failed
├── ConnectError           no connection, so nothing was sent
├── ConnectionLostError    it ended before the answer did: whether the request was executed is unknown
├── AnswerTimeoutError     the same, for want of an answer in time
└── AnswerUnreadableError  the same, for an answer that is not HTTP
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, cast
from urllib.parse import urlsplit

import httptools

ANSWER_BYTES_MAX = 1024 * 1024

NOT_MODIFIED = b"HTTP/1.1 304 "


class HttpError(Exception):
    """The exchange failed; `code` stands in a record where the code of an answer would."""

    code: ClassVar[str] = "http_error"


class ConnectError(HttpError):
    code = "connect_failed"


class ConnectionLostError(HttpError):
    code = "connection_lost"


class AnswerTimeoutError(HttpError):
    code = "answer_timeout"


class AnswerUnreadableError(HttpError):
    code = "answer_unreadable"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. The names of its headers are in lower case; of a repeated header the last one is kept."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and what its paths begin with."""

    host: str
    port: int
    prefix: str = ""

    @classmethod
    def of(cls, base_url: str) -> Self:
        """Read `http://host:port/prefix`. Raises ValueError for anything else."""
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not an address of the form http://host:port: {base_url!r}")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"))

    def request(self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """The bytes of a request. Raises ValueError when a header would begin a line of its own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        fields = {"Host": f"{host}:{self.port}", **headers, "Content-Length": str(len(body))}
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        head = "\r\n".join(lines)
        if not head.count("\r") == head.count("\n") == len(fields):
            raise ValueError("a header must be one line")
        return head.encode("latin-1") + b"\r\n\r\n" + body


def is_complete(data: bytes) -> bool:
    """Whether an answer, which has a Content-Length or is a 304, is all there: for who cannot afford to parse it."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    if data.startswith(NOT_MODIFIED):
        return True
    at = data.find(b"content-length:", 0, head)
    if at < 0:
        at = data[:head].lower().index(b"content-length:")
    return len(data) >= head + 4 + int(data[at + 15 : data.find(b"\r", at)])


class Connection(asyncio.Protocol):
    """A kept-alive connection. After anything but a whole answer it is closed: the next answer might be the last's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None

    @classmethod
    async def open(cls, address: Address, *, timeout_seconds: float) -> "Connection":
        """Connect. Raises ConnectError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds):
                _, connection = await loop.create_connection(cls, address.host, address.port)
        except OSError as error:  # TimeoutError is one of them.
            raise ConnectError(f"{address.host}:{address.port}: {error or 'no answer in time'}") from error
        return connection

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, *, timeout_seconds: float) -> Response:
        """Send a request and wait for its answer. Raises every HttpError but ConnectError."""
        if self._answer is not None:
            raise RuntimeError("a connection carries one request at a time")
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLostError("the connection was closed before the request")
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._answer = answer
        timer = self._loop.call_later(timeout_seconds, self._fail, AnswerTimeoutError(f"after {timeout_seconds:g} s"))
        self._transport.write(request)
        try:
            return await answer
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._answer = None

    def send_and_close(self, request: bytes) -> None:
        """Send a whole request and hang up without waiting for its answer. Raises ConnectionLostError."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLostError("the connection was closed before the request")
        self._transport.write(request)
        self._transport.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(AnswerUnreadableError(str(error)))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionLostError(str(exc or "closed by the server")))

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self._body += part
        if len(self._body) > ANSWER_BYTES_MAX:
            self._fail(AnswerUnreadableError(f"longer than {ANSWER_BYTES_MAX} bytes"))
            self.close()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # Only the announcement of an answer.
            return
        expected = self._answer is not None and not self._answer.done()
        if self._answer is not None and expected:
            self._answer.set_result(Response(status, self._headers, self._body))
        if not expected or not self._parser.should_keep_alive():
            self.close()

    def _fail(self, error: HttpError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class Pool:
    """At most `size` connections to one address, each lent to one borrower at a time, in the order they asked."""

    def __init__(self, address: Address, *, size: int, connect_timeout_seconds: float) -> None:
        self._address = address
        self._connect_timeout_seconds = connect_timeout_seconds
        # The connection used last is lent first, so that no more are opened than are needed at once.
        self._slots: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._slots.put_nowait(None)

    async def borrow(self) -> Connection:
        """Wait for a connection, a new one if the server has closed the old one. Raises ConnectError.

        What was borrowed must be given back, whatever became of it.
        """
        connection = await self._slots.get()
        if connection is not None and connection.usable:
            return connection
        try:
            return await Connection.open(self._address, timeout_seconds=self._connect_timeout_seconds)
        except BaseException:
            self._slots.put_nowait(None)
            raise

    def give_back(self, connection: Connection) -> None:
        self._slots.put_nowait(connection)

    async def exchange(self, request: bytes, *, timeout_seconds: float) -> Response:
        """Wait for a connection, send a request on it, and wait for its answer. Raises every HttpError."""
        connection = await self.borrow()
        try:
            return await connection.exchange(request, timeout_seconds=timeout_seconds)
        finally:
            self.give_back(connection)

    def close(self) -> None:
        """Close the connections that are not lent."""
        while not self._slots.empty():
            if connection := self._slots.get_nowait():
                connection.close()
