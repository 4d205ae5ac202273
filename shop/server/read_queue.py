"""Reads wait their share: a loop iteration handles only so many that purchases and payments are not held up.

What comes in crowds and costs little is read and answered by the hundred in one iteration; whoever has bought waits
behind all of them, and for each step of the answer again. So an iteration handles reads for a limited time, and the
others wait in the order in which they came, each kind in a queue of its own, which are served by weighted round robin.
It is work-conserving: with nothing else to do, the next iteration begins at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection

from shop.server.admission import ReadKind
from shop.server.connection import Connection
from shop.server.sending import alone

# So much of a request says of which kind it is.
START_BYTES = 10
# An iteration handles so many at once, and further ones for so long: less while others have something under way.
AT_ONCE = 4
SECONDS_ALONE, SECONDS_BESIDE_OTHERS = 0.002, 0.00025
UNREAD_BYTES_MAX = 32 * 1024


class ReadQueue:
    """The reads that wait in one process; `queues` has that of each kind by how its requests begin."""

    def __init__(self, kinds: tuple[ReadKind, ...]) -> None:
        self._kinds = tuple((kind.weight, deque[Connection]()) for kind in kinds)
        self.queues = {
            start[:START_BYTES]: queue
            for kind, (_, queue) in zip(kinds, self._kinds, strict=True)
            for start in kind.starts
        }
        self._others: Collection[object] = ()
        self._waiting = self._at_once = 0
        self._scheduled = False

    def defers(self, connection: Connection, data: bytes, queue: deque[Connection]) -> bool:
        """Whether what has come waits, as the connection's `unread`, for a later iteration of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._others = connection.server_state.tasks
            connection.loop.call_soon(self._handle_some)
        if self._at_once < AT_ONCE and not self._waiting:
            self._at_once += 1
            return False
        if not connection.idle:
            return False
        connection.unread = data
        queue.append(connection)
        self._waiting += 1
        return True

    def _handle_some(self) -> None:
        """Once in each loop iteration, while reads come: some of each kind by its weight, until the time is over."""
        ends_at = time.monotonic() + (SECONDS_BESIDE_OTHERS if self._others else SECONDS_ALONE)
        while self._waiting and time.monotonic() < ends_at:
            for weight, queue in self._kinds:
                for _ in range(min(weight, len(queue))):
                    self._waiting -= 1
                    connection = queue.popleft()
                    alone(connection, connection.receive_unread)
        self._scheduled = bool(self._waiting or self._at_once)
        self._at_once = 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._handle_some)
