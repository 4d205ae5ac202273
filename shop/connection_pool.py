"""The pool of connections to Postgres: lent in the order of asking, to a bounded number of callers, never known dead.

To ask each connection whether it still answers costs as much as a statement. A connection that was closed is known to
be dead for nothing; one that was used a moment ago is taken at its word; only one that was idle is asked.
"""

import math
import time
from contextvars import ContextVar
from typing import Any

from sqlalchemy import AdaptedConnection, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_

from shop import metrics
from shop.waiting_line import LineFull, WaitingLine

SERVER = "postgres"
IDLE_SINCE = "idle_since"
# When whoever asked for a connection last in this task is to have it, by the monotonic clock.
DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


class NoConnectionFree(PoolTimeout):
    """Whoever asked has waited as long as they may. Nothing was sent to Postgres."""


class TooManyWaiting(PoolTimeout):
    """As many callers as may wait for a connection wait already. Nothing was sent to Postgres."""


class PoolGate(WaitingLine):
    """The line before the connections of one pool."""

    def enter_at_once(self) -> bool:
        """Enter if that needs no waiting. Raises TooManyWaiting when the line is full as well."""
        try:
            return super().enter_at_once()
        except LineFull:
            metrics.POOL_REFUSALS.labels(SERVER, "line_full").inc()
            raise TooManyWaiting(f"{self.waiting} callers wait for a connection, and more may not") from None

    async def wait(self, seconds: float) -> None:
        """Enter when all who came before have. Raises NoConnectionFree after so many seconds."""
        try:
            await super().wait(seconds)
        except TimeoutError:
            metrics.POOL_REFUSALS.labels(SERVER, "waited").inc()
            raise NoConnectionFree(f"no connection became free within {seconds:g} s") from None


class BoundedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool behind a gate. Without it any number waits, in no order, and a failed attempt wakes nobody."""

    def __init__(self, creator: Any, waiting_max: int = 0, **more: Any) -> None:
        super().__init__(creator, **more)
        self.gate = PoolGate(places=self.size(), waiting_max=waiting_max)

    def recreate(self) -> "BoundedPool":
        """An empty pool with the same bounds."""
        made = super().recreate()
        assert isinstance(made, BoundedPool)  # noqa: S101 - it makes one of its own class
        made.gate = PoolGate(places=made.size(), waiting_max=self.gate.waiting_max)
        return made

    def _do_get(self) -> ConnectionPoolEntry:
        DEADLINE.set(time.monotonic() + self.timeout())
        if not self.gate.enter_at_once():
            await_(self.gate.wait(self.timeout()))
        try:
            return super()._do_get()
        except BaseException:
            self.gate.leave()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record.info[IDLE_SINCE] = time.monotonic()
        try:
            super()._do_return_conn(record)
        finally:
            self.gate.leave()

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """One that is replaced while it is idle is dropped at once: to say goodbye to a dead server takes 2 s."""
        driver = connection.driver_connection
        if terminate and not driver.is_closed() and not driver.is_in_transaction():
            driver.terminate()
        super()._close_connection(connection, terminate=terminate)


def seconds_left(seconds: float) -> float:
    """So many seconds, or as many as are left of the caller's wait for a connection; never less than 0."""
    return max(0.0, min(seconds, DEADLINE.get() - time.monotonic()))


def replace_dead_connections(
    engine: AsyncEngine, *, idle_seconds: float, ping_seconds: float, gone: tuple[type[Exception], ...]
) -> None:
    """Never lend a connection that is known to be dead; ask one that was idle for longer than `idle_seconds`.

    One that does not answer within `ping_seconds`, or with one of `gone`, is replaced with all that are as old: the
    network has forgotten them as well, or behind the same name there is another server. SQLAlchemy's own ping waits for
    as long as a statement may take, on each half-open connection again.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def check(connection: AdaptedConnection, record: ConnectionPoolEntry, _: object) -> None:
        idle_since = record.info.get(IDLE_SINCE)
        if idle_since is None:
            return  # It was made a moment ago.
        if connection.driver_connection.is_closed():
            raise DisconnectionError
        if time.monotonic() - idle_since <= idle_seconds:
            return
        wait = seconds_left(ping_seconds)
        try:
            connection.run_async(lambda driver: driver.fetchrow(";", timeout=wait))
        except gone as error:
            connection.driver_connection.terminate()
            raise InvalidatePoolError from error
