"""Reads of shoppers are answered in time: while Postgres hangs, a refusal comes before anybody gives up waiting.

A statement ends by its own time limit, which is longer, and its connection with it; to cancel it would cost another
connection, of a server that hangs. So the read goes on, and what it says at last is for nobody.
"""

import asyncio

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.app.gates import ACCOUNTS, ORDERS, PUBLIC, READS, kind_of
from shop.app.problems import send_problem
from shop.errors import Unavailable
from shop.settings import Settings

LIMITED = frozenset({ACCOUNTS, ORDERS, PUBLIC})

log = structlog.get_logger(__name__)


class ReadsInTime:
    """Answers 503 for a read whose answer has not begun in time. What changes something is never cut."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._seconds_max = settings.read_seconds_max
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in READS or kind_of("GET", scope["path"]) not in LIMITED:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        reading = asyncio.create_task(self._read(scope, receive, answer.send))
        try:
            await asyncio.wait({reading}, timeout=self._seconds_max)
        except asyncio.CancelledError:
            reading.cancel()
            raise
        if reading.done() or answer.begun:
            await reading
            return
        answer.is_late = True
        self._late.add(reading)
        reading.add_done_callback(self._ended)
        log.warning("read_late", path=scope["path"])
        await send_problem(Unavailable("It takes too long to read this at the moment"), scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _ended(self, reading: asyncio.Task[None]) -> None:
        self._late.discard(reading)
        if not reading.cancelled():
            reading.exception()  # It was logged where it was raised.


class _Answer:
    """The answer of a read; one that is late is for nobody."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = self.is_late = False

    async def send(self, message: Message) -> None:
        """Send a part of it."""
        if not self.is_late:
            self.begun = True
            await self._send(message)
