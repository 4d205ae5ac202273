"""The closed loop and the open loop over raw connections, and what they note while a round's window is open."""

import asyncio
import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import cast

from loadtests.bench.accounting import cpu_seconds
from loadtests.bench.messages import OWN, Plan
from loadtests.client.http import is_complete

CONNECTS_AT_ONCE = 128
CONNECT_SECONDS_MAX = 3.0
RECONNECTS_MAX = 10_000
TICK_SECONDS = 0.001


class Connection(asyncio.Protocol):
    """One connection with at most one request under way, which was meant to leave at `since`."""

    __slots__ = ("_loop", "_partial", "busy", "since", "transport")

    def __init__(self, loop: "ClosedLoop") -> None:
        self._loop = loop
        self._partial = b""
        self.busy = False
        self.since = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, since: float) -> None:
        self.since = since
        self.busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        if not is_complete(data):
            self._partial = data
            return
        self._partial = b""
        self.busy = False
        self._loop.answered(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._loop.lost(self)


class ClosedLoop:
    """Every connection sends its next request when the last one is answered.

    `latencies` has the seconds of each answer by its status, `counts` the answers that came within the window.
    """

    def __init__(self, plan: Plan, requests: Sequence[bytes]) -> None:
        self.plan = plan
        self.total = len(requests)
        self.sent = self.under_way = self.lost_requests = self.answer_bytes = 0
        self.counts: Counter[bytes] = Counter()
        self.latencies: defaultdict[bytes, array[float]] = defaultdict(lambda: array("f"))
        self.begun_at = self.ended_at = float("inf")
        self.exhausted = False
        self.connections: list[Connection] = []
        self.used_before: dict[str, float] = {}
        self.used_after: dict[str, float] = {}
        self._requests: Iterator[bytes] = iter(requests)
        self._open = self._stopped = False
        self._reconnects: set[asyncio.Task[None]] = set()
        self._reconnects_left = RECONNECTS_MAX
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def unsent(self) -> int:
        """Requests that were due and did not leave; in a closed loop none ever is."""
        return 0

    async def run(self) -> None:
        """Play the round, and let go of the connections. Raises ConnectionError when none could be made."""
        for start in range(0, self.plan.connections, CONNECTS_AT_ONCE):
            wanted = min(CONNECTS_AT_ONCE, self.plan.connections - start)
            await asyncio.gather(*(self._connect() for _ in range(wanted)))
        if not self.connections:
            raise ConnectionError(f"nobody answers at {self.plan.host}:{self.plan.port}")
        loop = asyncio.get_running_loop()
        if self.plan.warmup_seconds:
            loop.call_later(self.plan.warmup_seconds, self._begin)
        else:
            self._begin()
        if self.plan.seconds is not None:
            loop.call_later(self.plan.warmup_seconds + self.plan.seconds, self._end)
        try:
            self._let_loose(self.connections)
            await self._done
        finally:
            self._stopped = True
            for connection in self.connections:
                connection.transport.abort()

    async def _connect(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                _, connection = await loop.create_connection(lambda: Connection(self), self.plan.host, self.plan.port)
        except (OSError, TimeoutError):
            return None
        self.connections.append(connection)
        return connection

    def _let_loose(self, connections: Sequence[Connection]) -> None:
        now = time.perf_counter()
        for connection in connections:
            self._next(connection, now)

    def _next(self, connection: Connection, now: float) -> None:
        """A connection is free: use it, unless the round is over."""
        self._send(connection, now)

    def _send(self, connection: Connection, since: float) -> None:
        request = None if self._stopped else next(self._requests, None)
        if request is not None:
            self.sent += 1
            self.under_way += 1
            connection.send(request, since)
            return
        if self.plan.seconds is not None and not self._stopped:
            self.exhausted = True
            self._end()
        self._finish_if_idle()

    def answered(self, connection: Connection, data: bytes) -> None:
        """Note an answer; its status is always at the same place."""
        now = time.perf_counter()
        status = data[9:12]
        self.under_way -= 1
        if self._open:
            self.counts[status] += 1
        if self.begun_at <= connection.since <= self.ended_at:
            self.latencies[status].append(now - connection.since)
            self.answer_bytes = len(data)
        self._next(connection, now)

    def lost(self, connection: Connection) -> None:
        """A connection broke: its request will not be answered, and another connection takes its place."""
        if connection.busy:
            connection.busy = False
            self.under_way -= 1
            self.lost_requests += 1
        if self._stopped or not self._reconnects_left:
            self._finish_if_idle()
            return
        self._reconnects_left -= 1
        task = asyncio.get_running_loop().create_task(self._reconnect())
        self._reconnects.add(task)
        task.add_done_callback(self._reconnects.discard)

    async def _reconnect(self) -> None:
        connection = await self._connect()
        if connection is not None:
            self._let_loose([connection])

    def _begin(self) -> None:
        self._open = True
        self.begun_at = time.perf_counter()
        self.used_before = self._used()

    def _end(self) -> None:
        if self._stopped:
            return
        self.used_after = self._used()
        self.ended_at = time.perf_counter()
        self.begun_at = min(self.begun_at, self.ended_at)
        self._open, self._stopped = False, True
        asyncio.get_running_loop().call_later(self.plan.grace_seconds, self._finish)
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if self.under_way == 0 and (self._stopped or self.sent == self.total):
            self._finish()

    def _finish(self) -> None:
        self._end()
        if not self._done.done():
            self._done.set_result(None)

    def _used(self) -> dict[str, float]:
        accounts = {name: cpu_seconds(pids) for name, pids in self.plan.accounts.items()}
        return {OWN: time.process_time(), **accounts}


class OpenLoop(ClosedLoop):
    """Request i is meant to leave at the start + i / rate; when no connection is free, it leaves on the next one."""

    def __init__(self, plan: Plan, requests: Sequence[bytes]) -> None:
        super().__init__(plan, requests)
        self._rate = plan.rate or 1.0
        self._started_at = 0.0
        self._free: deque[Connection] = deque()

    @property
    def unsent(self) -> int:
        # Who was due in the very last moment had no chance.
        return max(self._due(min(time.perf_counter(), self.ended_at) - 2 * TICK_SECONDS) - self.sent, 0)

    def _let_loose(self, connections: Sequence[Connection]) -> None:
        self._free.extend(connections)
        if not self._started_at:
            self._started_at = time.perf_counter()
            self._tick()

    def _next(self, connection: Connection, now: float) -> None:
        if not self._stopped and self._intended(self.sent) <= now:
            self._send(connection, self._intended(self.sent))
            return
        self._free.append(connection)
        self._finish_if_idle()

    def _intended(self, number: int) -> float:
        return self._started_at + number / self._rate

    def _due(self, now: float) -> int:
        """How many requests should have left by now."""
        return min(int((now - self._started_at) * self._rate) + 1, self.total)

    def _tick(self) -> None:
        due = self._due(time.perf_counter())
        while self._free and self.sent < due and not self._stopped:
            connection = self._free.popleft()
            if not connection.transport.is_closing():
                self._send(connection, self._intended(self.sent))
        if self.sent == self.total and self.plan.seconds is not None and not self._stopped:
            self.exhausted = True
            self._end()
        if not self._stopped:
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
