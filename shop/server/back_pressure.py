"""Back-pressure: when so many clients ask that refusing them leaves no time to sell, connections are parked.

The process is saturated then. A connection whose purchase was answered or refused is parked, and so is a new one. A
parked connection is not read, so that what it sends fills the kernel's buffers: the proxy and the client get
back-pressure. They are resumed in their order, one for each answer that leaves, and a few more while the loop keeps up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from shop.server.connection import Connection
from shop.server.gate import OverloadGate
from shop.server.sending import alone
from shop.server.states import CLOSED

RESUME_SECONDS = 0.005
EXTRA_MIN, EXTRA_MAX = 4, 1024
# A process that used so much of a core lately has no time to spare: what is resumed on top of that is mostly refused.
BUSY_SHARE, LATELY_SECONDS = 0.7, 0.05


class BackPressure:
    """The parked connections of one process."""

    def __init__(self, gate: OverloadGate, *, is_bulk: Callable[[dict[str, Any]], bool]) -> None:
        """A connection is parked after an answer to a request that `is_bulk`, and after each refusal."""
        self._gate = gate
        self._is_bulk = is_bulk
        self._parked: OrderedDict[Connection, None] = OrderedDict()
        self._saturated = False
        self._answers = 0
        self._seen_at = self._seen_cpu = 0.0
        self._extra = EXTRA_MIN

    def opened(self, connection: Connection) -> None:
        """While saturated, a new connection is parked."""
        if self._saturated:
            # Not at once: uvloop begins to read when this has returned, whatever was paused before.
            connection.loop.call_soon(self._park, connection)

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._parked.pop(connection, None)

    def refused(self, connection: Connection) -> bool:
        """A request was refused. Whether its connection is parked now, because the process is saturated."""
        self._extra = EXTRA_MIN
        if not self._saturated and self._gate.saturated:
            self._saturated, self._answers = True, 0
            self._seen_at, self._seen_cpu = time.monotonic(), time.thread_time()
            connection.loop.call_later(RESUME_SECONDS, self._resume)
        if self._saturated:
            self._park(connection)
        return self._saturated

    def parks(self, connection: Connection, scope: dict[str, Any] | None) -> bool:
        """Whether this connection, whose request was answered, is parked now. What was not parsed is bulk."""
        self._answers += 1
        if not self._saturated or not (scope is None or self._is_bulk(scope)):
            return False
        self._park(connection)
        return True

    def _park(self, connection: Connection) -> None:
        if connection.state is not CLOSED:
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
        if self._gate.lagging:
            count, self._extra = 0, EXTRA_MIN
        for _ in range(min(count, len(self._parked))):
            connection = self._parked.popitem(last=False)[0]
            alone(connection, connection.resume_reading)
        if self._parked:
            asyncio.get_running_loop().call_later(RESUME_SECONDS, self._resume)
        else:
            self._saturated = False
