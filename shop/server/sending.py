"""The sending side of a connection. What all connections have to send leaves together, once in a loop iteration."""

import asyncio
import time
from collections.abc import Callable

import structlog

from shop import metrics

# So long an answer waits for others; a loop iteration with much else in it may take a hundred times as long.
TOGETHER_SECONDS_MAX = 0.002
# A client that takes nothing of its answer for so long is gone, or wants us to keep it in memory.
UNREAD_SECONDS_MAX = 30.0
# After a refusal the client is still sending: to close at once would reset the connection and take the answer away.
LINGER_SECONDS = 1.0
# More is not kept until the end of the iteration: a writer of much is to notice that the client reads too slowly.
UNSENT_BYTES_MAX = 64 * 1024

log = structlog.get_logger(__name__)


class Outbox:
    """The connections of one process that have something to send in this loop iteration.

    A write wakes the reader; many in a row wake it once. On a virtual machine where to wake another core takes
    longer than to write, the API needs a quarter less time for a purchase, and a third less for "sold out". Where it is
    cheap, a purchase takes the same as without, and "sold out" a tenth more.
    """

    def __init__(self) -> None:
        self._waiting: list[SendingProtocol] = []
        self._since = 0.0

    def add(self, connection: "SendingProtocol") -> None:
        """Let this connection send after what is ready to run now."""
        if not self._waiting:
            connection.loop.call_soon(self._send)
            self._since = time.monotonic()
        self._waiting.append(connection)

    def send_if_late(self) -> None:
        """Let all of them send now, if the first has waited for long enough."""
        if self._waiting and time.monotonic() - self._since > TOGETHER_SECONDS_MAX:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            alone(connection, connection.flush)


def alone(connection: "SendingProtocol", act: Callable[[], None]) -> None:
    """Let a connection act. An error that nobody foresaw is its own alone: it ends, and those behind it go on."""
    try:
        act()
    except Exception as error:
        metrics.ITEM_FAILURES.labels("connections").inc()
        log.error("connection_failed", exc_info=error)
        connection.transport.abort()


class SendingProtocol(asyncio.Protocol):
    """A connection that writes."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self.loop = loop
        # Set while the client reads too slowly: whoever writes waits for it.
        self.writable: asyncio.Event | None = None
        self._outbox = outbox
        self._unsent = b""
        self._unread_since = 0.0

    def write(self, data: bytes) -> None:
        """Send this soon, after what was written before."""
        if not self._unsent:
            self._outbox.add(self)
        self._unsent += data
        if len(self._unsent) > UNSENT_BYTES_MAX:
            self.flush()
        self._outbox.send_if_late()

    def flush(self) -> None:
        """Send what is written now."""
        data, self._unsent = self._unsent, b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End the connection when what is written has been sent."""
        self.flush()
        self.transport.close()

    def linger(self) -> None:
        """End the connection a moment after what is written has been sent; the client may still be sending."""
        self.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def abort_if_unread(self, now: float) -> None:
        """End the connection of a client that has not read for too long."""
        if self.writable is not None and now - self._unread_since > UNREAD_SECONDS_MAX:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """What is unsent is for nobody."""
        self._unsent = b""
        self.resume_writing()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.writable = asyncio.Event()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """The client reads again, or is gone."""
        if self.writable is not None:
            self.writable.set()
            self.writable = None
