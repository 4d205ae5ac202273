"""Reads wait their share: a loop iteration handles only so many that purchases and payments are not held up.

What comes in crowds and costs little is read and answered by the hundred in one iteration; whoever has bought waits
behind all of them, and for each step of the answer again. So an iteration handles reads for a limited time, and the
others wait in the order in which they came, each kind in a queue of its own, which are served by weighted round robin.
It is work-conserving: with nothing else to do, the next iteration begins at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from functools import partial

from shop.server.connection import Connection
from shop.server.sending import alone

READ_METHODS = (b"GET ", b"HEAD ")
# An iteration handles so many at once, and further ones for so long.
AT_ONCE, SECONDS_PER_ITERATION = 8, 0.002
WAITING_BYTES_MAX = 32 * 1024


class ReadQueue:
    """The reads that wait in one process."""

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        """`weights` has, by the beginning of a request, how many of its kind are handled before the next kind's."""
        # What has come of each connection that waits.
        self.waiting: dict[Connection, bytes] = {}
        self._kinds = tuple((start, weight, deque[Connection]()) for start, weight in weights.items())
        self._at_once = 0
        self._scheduled = False

    def defers(self, connection: Connection, data: bytes) -> bool:
        """Whether this is a read, or goes on with one, that waits for a later iteration of the loop."""
        before = self.waiting.get(connection)
        if before is not None:
            self.waiting[connection] = before + data
            if len(before) + len(data) > WAITING_BYTES_MAX:
                self._handle(connection)
            return True
        if not connection.idle or (queue := self._queue_of(data)) is None:
            return False
        if not self._scheduled:
            self._scheduled = True
            connection.loop.call_soon(self._handle_some)
        if not self.waiting and self._at_once < AT_ONCE:
            self._at_once += 1
            return False
        self.waiting[connection] = data
        queue.append(connection)
        return True

    def _queue_of(self, data: bytes) -> deque[Connection] | None:
        for start, _, queue in self._kinds:
            if data.startswith(start):
                return queue
        return None

    def _handle(self, connection: Connection) -> None:
        data = self.waiting.pop(connection, None)
        if data is not None:  # Else it was too long to wait.
            alone(connection, partial(connection.receive, data))

    def _handle_some(self) -> None:
        """Once in each loop iteration, while reads come: some of each kind by its weight, until the time is over."""
        ends_at = time.monotonic() + SECONDS_PER_ITERATION
        while self.waiting and time.monotonic() < ends_at:
            for _, weight, queue in self._kinds:
                for _ in range(min(weight, len(queue))):
                    self._handle(queue.popleft())
        self._scheduled = bool(self.waiting or self._at_once)
        self._at_once = 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._handle_some)
