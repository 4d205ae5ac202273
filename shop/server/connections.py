"""All connections of one process: slow ones are cut, purchases are deferred under load, and back-pressure is applied.

A refusal costs about a third of a purchase. While purchases are refused, new ones are deferred, and handled all at once
when those that were admitted leave the loop idle. When so many clients ask that refusing them leaves no
time to sell, the process is saturated: a connection whose purchase was answered or refused is parked, and so is a new
one. A parked connection is not read, so that what it sends fills the kernel's buffers: the proxy and the client get
back-pressure. They are resumed in their order, one for each answer that leaves, and a few more while the loop keeps up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from shop.errors import Overloaded
from shop.server.admission import Admission
from shop.server.connection_cap import ConnectionCap
from shop.server.gate import OverloadGate
from shop.server.heads import answer_head
from shop.server.sending import Outbox, abort_failed
from shop.settings import Settings
from shop.stopping import sleep_or_stop

if TYPE_CHECKING:
    from shop.server.protocol import ShopProtocol

STATE = "connections"
SWEEPS_PER_LIMIT, SWEPT_AT_ONCE = 10, 64
RESUME_SECONDS = 0.005
EXTRA_MIN, EXTRA_MAX = 4, 1024
# A process that used so much of a core lately has no time to spare: what is resumed on top of that is mostly refused.
BUSY_SHARE, LATELY_SECONDS = 0.7, 0.05
# A loop iteration that is so short has had nothing else to do; and so long new purchases wait for one at most.
IDLE_ITERATION_SECONDS, DEFERRED_SECONDS_MAX = 0.001, 0.1
DEFERRED_BYTES_MAX = 32 * 1024

log = structlog.get_logger(__name__)


class Connections:
    """Keeps the connections of one process in bounds."""

    def __init__(
        self, settings: Settings, admission: Admission, gate: OverloadGate, *, on_stop: Callable[[], None]
    ) -> None:
        """`on_stop` answers those who only wait for news; it is called when the process is asked to stop."""
        self.gate = gate
        self.outbox = Outbox()
        self.body_bytes_usual = settings.purchase_body_bytes_max
        self.stop = on_stop
        self.answer = admission.answer
        self._admission = admission
        self._settings = settings
        self.cap = ConnectionCap(settings)
        self._open: set[ShopProtocol] = set()
        self._parked: OrderedDict[ShopProtocol, None] = OrderedDict()
        self._deferred: list[ShopProtocol] = []
        # While purchases are refused: a new one is deferred until the loop has nothing else to do.
        self.deferring = False
        self._checked_at = self._handled_at = 0.0
        self._own_headers: list[tuple[bytes, bytes]] | None = None
        self._refusal_start = b""
        self._saturated = False
        self._answers = 0
        self._seen_at = self._seen_cpu = 0.0
        self._extra = EXTRA_MIN

    def opened(self, connection: "ShopProtocol") -> None:
        """Add a new connection; while saturated, it is parked."""
        self._open.add(connection)
        self.cap.opened(connection)
        if self._saturated:
            # Not at once: uvloop begins to read when this has returned, whatever was paused before.
            connection.loop.call_soon(self._park, connection)

    def lost(self, connection: "ShopProtocol") -> None:
        """Forget a connection."""
        self.cap.closed(connection)
        self._open.discard(connection)
        self._parked.pop(connection, None)

    def refusal(self, connection: "ShopProtocol", scope: dict[str, Any]) -> bytes | None:
        """What follows `refusal_start` if a request is not even begun, because the process has too much to do."""
        full = self.cap.refusal(connection, scope)
        return full if full is not None else self._admission.admit(scope)

    def refusal_unparsed(self, data: bytes) -> bytes | None:
        """The same for what may be a whole purchase, if others were refused in this iteration already."""
        return self._admission.admit_unparsed(data) if self.gate.refusing else None

    def refusal_start(self, connection: "ShopProtocol", *, keep_alive: bool) -> bytes:
        """The status line of a refusal and the server's own headers, which it replaces once a second."""
        own = connection.server_state.default_headers
        if own is not self._own_headers:
            self._own_headers, self._refusal_start = own, answer_head(Overloaded.status, own, ())
        return self._refusal_start if keep_alive else self._refusal_start + b"connection: close\r\n"

    def refused(self, connection: "ShopProtocol") -> None:
        """A purchase was refused; while saturated, its connection is parked."""
        self._extra = EXTRA_MIN
        if not self._saturated and self.gate.saturated:
            self._saturated, self._answers = True, 0
            self._seen_at, self._seen_cpu = time.monotonic(), time.thread_time()
            connection.loop.call_later(RESUME_SECONDS, self._resume)
        if self._saturated:
            self._park(connection)
        elif not self.deferring:
            self.deferring = True
            self._checked_at = self._handled_at = time.monotonic()
            connection.loop.call_soon(self._handle_deferred)

    def defers(self, connection: "ShopProtocol", data: bytes) -> bool:
        """Whether this is a purchase, or goes on with one, that is deferred until the loop has nothing else to do.

        An iteration that reads on and on, only to refuse, would delay those who were admitted.
        """
        if not connection.deferred:
            if not data.startswith(self._admission.bulk_start):
                return False
            self._deferred.append(connection)
        elif len(connection.deferred) + len(data) > DEFERRED_BYTES_MAX:
            return False
        connection.deferred += data
        return True

    def _handle_deferred(self) -> None:
        """Once in each loop iteration: handle what was deferred, if there was nothing else to do."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        seconds, self._checked_at = now - self._checked_at, now
        if seconds < IDLE_ITERATION_SECONDS or now - self._handled_at > DEFERRED_SECONDS_MAX:
            deferred, self._deferred = self._deferred, []
            for connection in deferred:
                if connection.deferred:
                    self._alone(connection, connection.receive)
            self._checked_at = self._handled_at = time.monotonic()
            self.deferring = self.gate.refusing
        if self.deferring:
            loop.call_soon(self._handle_deferred)

    @staticmethod
    def _alone(connection: "ShopProtocol", act: Callable[[], None]) -> None:
        """Let a connection act; an error is its own alone, because others wait behind it."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - it is logged and counted
            abort_failed(connection, error)

    def parks(self, connection: "ShopProtocol", scope: dict[str, Any]) -> bool:
        """Whether this connection, whose request was answered, is parked now."""
        self._answers += 1
        if not self._saturated or not self._admission.is_bulk(scope):
            return False
        self._park(connection)
        return True

    def _park(self, connection: "ShopProtocol") -> None:
        if connection in self._open:
            connection.pause_reading()
            self._parked[connection] = None

    def _resume(self) -> None:
        """Resume the connections that are parked longest: one for each answer since the last time, and a few more.

        Ever more while there is time to spare, for those may be idle connections; none if the loop is lagging.
        """
        count, self._answers = self._answers + self._extra, 0
        seconds = time.monotonic() - self._seen_at
        if seconds > LATELY_SECONDS:
            busy = time.thread_time() - self._seen_cpu > BUSY_SHARE * seconds
            self._extra = EXTRA_MIN if busy else min(2 * self._extra, EXTRA_MAX)
            self._seen_at, self._seen_cpu = time.monotonic(), time.thread_time()
        if self.gate.lagging:
            count, self._extra = 0, EXTRA_MIN
        for _ in range(min(count, len(self._parked))):
            connection = self._parked.popitem(last=False)[0]
            self._alone(connection, connection.resume_reading)
        if self._parked:
            asyncio.get_running_loop().call_later(RESUME_SECONDS, self._resume)
        else:
            self._saturated = False

    async def keep(self, stopping: asyncio.Event) -> None:
        """Cut what is too slow, and what nobody uses, until `stopping` is set."""
        loop = asyncio.get_running_loop()
        limits = {
            "request_seconds_max": self._settings.request_seconds_max,
            "keep_alive_seconds": self._settings.keep_alive_seconds,
        }
        while not stopping.is_set():
            now = loop.time()
            for number, connection in enumerate(tuple(self._open)):
                self._alone(connection, partial(connection.cut_if_late, now, **limits))
                if number % SWEPT_AT_ONCE == 0:
                    await asyncio.sleep(0)  # Others are served meanwhile.
            await sleep_or_stop(stopping, min(limits.values()) / SWEEPS_PER_LIMIT)
