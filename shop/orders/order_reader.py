"""The states of orders for the event streams of one process: whoever asks at the same time is answered by one read."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from shop import metrics
from shop.batching import Coalescer
from shop.failure_isolation import is_transient
from shop.settings import Settings

# So many take the loop for a few milliseconds: purchases that are under way beside them wait no longer.
ORDERS_PER_READ_MAX = 64
READS_IN_FLIGHT_MAX = 2
# The time of a read is counted in so many parts, each of a loop iteration of its own at least: while a crowd connects,
# an iteration may last for a second, in which no server could have been heard.
WAITS_PER_READ = 10

log = structlog.get_logger(__name__)


class OrderState(NamedTuple):
    """An order as it is at one moment: whose it is, its version, whether it is its last, and `OrderRead` as JSON."""

    user_id: str
    version: int
    final: bool
    body: bytes


Found = OrderState | Exception | None
Read = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, Found]]]


class _Asked(NamedTuple):
    """An order that is asked for, since a time of the loop."""

    order_id: UUID
    at: float


class OrderReader:
    """Lets those who ask for an order wait in their order, and reads many together.

    A read that fails because a server is away is the answer to all who wait by then: the next one would fail as well,
    and theirs might be the hundredth.
    """

    def __init__(self, read: Read, settings: Settings) -> None:
        """`read` returns those of these orders that there are, each or what went wrong with it alone."""
        self._read = read
        self._seconds_max = settings.sse_read_seconds_max
        self._failed_at, self._failure = 0.0, Exception()
        self._abandoned: set[asyncio.Future[Mapping[UUID, Found]]] = set()
        self._coalescer: Coalescer[_Asked, Found] = Coalescer(
            self._answer,
            batch_max=ORDERS_PER_READ_MAX,
            in_flight_max=READS_IN_FLIGHT_MAX,
            queue_max=settings.order_listeners_max,
        )

    async def read(self, order_id: UUID) -> OrderState | None:
        """The order as it is now, whoever asks; None if there is no such order.

        Raises NotReady when it may be in a ledger that cannot be asked, one of `SERVER_ERRORS`, or what nobody foresaw.
        """
        found = await self._coalescer.ask(_Asked(order_id, asyncio.get_running_loop().time()))
        if isinstance(found, Exception):
            raise found
        return found

    async def _answer(self, asked: list[_Asked]) -> Sequence[Found]:
        """What each is told."""
        late = [each.order_id for each in asked if each.at > self._failed_at]
        found = await self._read_isolated(late) if late else {}
        return [found.get(each.order_id) if each.at > self._failed_at else self._failure for each in asked]

    async def _read_isolated(self, order_ids: Sequence[UUID]) -> Mapping[UUID, Found]:
        """One that cannot be read is a failure of nobody else."""
        try:
            return await self._read_in_time(set(order_ids))
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            if is_transient(error):
                log.warning("orders_not_read", reason=repr(error)[:200])
                self._failed_at, self._failure = asyncio.get_running_loop().time(), error
                return {}
            if len(order_ids) == 1:
                metrics.ITEM_FAILURES.labels("streams").inc()
                return {order_ids[0]: error}
            each = [await self._read_isolated([order_id]) for order_id in order_ids]
            return {order_id: found for one in each for order_id, found in one.items()}

    async def _read_in_time(self, order_ids: Collection[UUID]) -> Mapping[UUID, Found]:
        """Raises TimeoutError. A read whose server hangs may not even end when it is cancelled: it is left alone."""
        reading = asyncio.ensure_future(self._read(order_ids))
        self._abandoned.add(reading)
        reading.add_done_callback(self._over)
        for _ in range(WAITS_PER_READ):
            await asyncio.wait({reading}, timeout=self._seconds_max / WAITS_PER_READ)
            if reading.done():
                return reading.result()
        reading.cancel()
        raise TimeoutError("the orders were not read in time")

    def _over(self, reading: "asyncio.Future[Mapping[UUID, Found]]") -> None:
        self._abandoned.discard(reading)
        if not reading.cancelled():
            reading.exception()
