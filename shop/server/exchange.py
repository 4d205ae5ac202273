"""One request and its answer on a connection, as ASGI sees them."""

import asyncio
from typing import Any
from uuid import uuid4

import structlog
from starlette.types import ASGIApp, Message

from shop.errors import ShopError
from shop.server.admission_control import AdmissionControl
from shop.server.answers import Answer, refusal
from shop.server.connection import Connection
from shop.server.heads import answer_head

UNREAD_BYTES_MAX = 64 * 1024
BODILESS = frozenset({204, 304})
DISCONNECT: Message = {"type": "http.disconnect"}

log = structlog.get_logger(__name__)


class Exchange:
    """Runs the application for one request; `begun` means that a byte of the answer was written.

    It is `ready` to run when the request is complete, so that a request that is refused for its end has done nothing. A
    body of unusual length is not waited for: the application says how much of it is too much.
    """

    __slots__ = (
        "_admitted",
        "_body",
        "_chunked",
        "_complete",
        "_connection",
        "_delivered",
        "_disconnected",
        "_head",
        "_left",
        "_more_body",
        "_task",
        "_waiter",
        "begun",
        "keep_alive",
        "ready",
        "scope",
    )

    def __init__(self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool, admitted: bool) -> None:
        """One that is not `admitted` has others before it: the admission is asked when its answer is the next one."""
        self.scope = scope
        self.keep_alive = keep_alive
        self.begun = False
        self.ready = False
        self._connection = connection
        self._admitted = admitted
        self._body = b""
        self._more_body = True
        self._delivered = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Future[Any] | None = None
        self._disconnected = False
        self._complete = False
        self._head: bytes | None = None
        self._chunked = False
        self._left: int | None = 0

    def start(self, app: ASGIApp, admission: AdmissionControl) -> None:
        """Refuse it, or answer with what the admission says; else let the application answer, in a task."""
        connection = self._connection
        if not self.ready or self._task is not None:
            return
        if not self._admitted:
            refused = admission.refusal(connection, self.scope, keep_alive=self.keep_alive)
            if refused is not None:
                self._complete = True
                connection.write(refused)
                connection.answered(self.scope, self.keep_alive)
                return
        answer = None
        if not self._more_body and connection.writable is None:
            answer = admission.answer(self.scope, self._body)
        if answer is None:
            self.run(app)
        elif isinstance(answer, Answer):
            self._answer(answer)
        else:
            self._task = answer
            answer.add_done_callback(self._answer_later)
            connection.server_state.tasks.add(answer)  # type: ignore[arg-type]

    def run(self, app: ASGIApp) -> None:
        """Let the application answer, in a task."""
        self._task = self._connection.loop.create_task(self._run(app))
        self._connection.server_state.tasks.add(self._task)

    @property
    def runs(self) -> bool:
        """Whether the application has begun."""
        return self._task is not None

    def feed(self, body: bytes, *, unusual: int) -> None:
        """A part of the body has come; with more than `unusual` bytes the rest is not waited for."""
        if self._complete:
            return
        self._body += body
        if len(self._body) > unusual:
            self.ready = True
        if len(self._body) > UNREAD_BYTES_MAX:
            self._connection.pause_reading()
        self._wake()

    def fed(self) -> None:
        """The request is complete."""
        self._more_body = False
        self.ready = True
        self._wake()

    def disconnect(self) -> None:
        """Nobody waits for the answer any more."""
        self._disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            if not self._complete and not self._disconnected:
                raise RuntimeError("the application has not answered")
        except Exception as error:  # noqa: BLE001 - it is logged, and answered 500
            self._fail(error)
        except BaseException:
            self._connection.close()  # Stopped in the midst: what became of it is unknown.
            raise
        finally:
            self._connection.server_state.tasks.discard(self._task)

    def _answer_later(self, answered: "asyncio.Future[Answer]") -> None:
        self._connection.server_state.tasks.discard(answered)
        if answered.cancelled():
            self._connection.close()
        elif (error := answered.exception()) is not None:
            self._fail(error)
        elif not self._disconnected:
            self._answer(answered.result())

    def _fail(self, error: BaseException) -> None:
        request_id = uuid4().hex
        log.error("unforeseen", path=self.scope["path"], request_id=request_id, exc_info=error)
        if self.begun or self._complete or self._disconnected:
            self._connection.close()
            return
        self._answer(refusal(ShopError(), self.scope["path"], request_id.encode()))

    def _answer(self, answer: Answer) -> None:
        status, headers, body = answer
        self._begin(status, headers)
        self._write(b"" if self.scope["method"] == "HEAD" else body)
        self._complete = True
        self._connection.answered(self.scope, self.keep_alive)

    async def receive(self) -> Message:
        while not (self._disconnected or self._complete):
            if self._body or not (self._more_body or self._delivered):
                body, self._body = self._body, b""
                self._delivered = not self._more_body
                self._connection.resume_reading()
                return {"type": "http.request", "body": body, "more_body": self._more_body}
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return DISCONNECT

    async def send(self, message: Message) -> None:
        """Write a part of the answer. The head waits for the first part of the body, unless its length is unknown."""
        if self._connection.writable is not None:
            await self._connection.writable.wait()
        if self._disconnected:
            return
        if self._complete:
            raise RuntimeError("the answer is complete already")
        if self._head is None and not self.begun:
            self._begin(message["status"], list(message.get("headers", ())))
            return
        body, more_body = message.get("body", b""), message.get("more_body", False)
        self._write(self._framed(body, more_body=more_body))
        if not more_body:
            self._complete = True
            self._wake()
            self._connection.answered(self.scope, self.keep_alive)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        bodiless = self.scope["method"] == "HEAD" or status in BODILESS
        self._left = 0 if bodiless else None
        closes = False
        for name, value in headers:
            if name == b"content-length" and not bodiless:
                self._left = int(value)
            elif name == b"connection" and value.lower() == b"close":
                closes = True
        if self._left is None and self.scope["http_version"] == "1.1":
            self._chunked = True
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        elif self._left is None:
            self.keep_alive = False  # The end of the connection is the end of the body.
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        self._head = answer_head(status, self._connection.server_state.default_headers, headers) + b"\r\n"
        if self._left is None:
            self._write(b"")

    def _framed(self, body: bytes, *, more_body: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more_body else chunk + b"0\r\n\r\n"
        if self._left is None:
            return body
        if self.scope["method"] == "HEAD":
            return b""
        self._left -= len(body)
        if self._left < 0 or (self._left and not more_body):
            raise RuntimeError("the body does not have the length of its Content-Length")
        return body

    def _write(self, data: bytes) -> None:
        if self._head is not None:
            data, self._head = self._head + data, None
            self.begun = True
        if data:
            self._connection.write(data)
