"""One order followed as an event stream: its state first, then each change, and comments while there is none.

No connection to a database is held while a stream waits. Those who are woken at the same time are read together, and
what an announcement may have failed to say is found by one poll for all of them.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from uuid import UUID

import structlog
from fastapi.sse import format_sse_event

from shop import metrics
from shop.batching import Coalescer
from shop.database import Database, see_one_moment
from shop.failure_isolation import SERVER_ERRORS, Isolation, is_transient
from shop.order_news import Changes, Listener
from shop.orders import repository
from shop.orders.models import OrderStatus
from shop.orders.schemas import OrderRead
from shop.orders.service import recorded_each
from shop.orders.versions import version_of
from shop.settings import Settings
from shop.stopping import sleep_or_stop

ORDERS_PER_READ_MAX = 128
READS_IN_FLIGHT_MAX = 2
ORDERS_PER_POLL_MAX = 500
# When a client comes back after its stream was ended; drawn for each, so that they do not all come at once.
RETRY_MS_MIN, RETRY_MS_MAX = 1_000, 4_000
HEARTBEAT = format_sse_event(comment="still here")

log = structlog.get_logger(__name__)


class OrderReader:
    """Reads orders that have rows for the streams of one process, many in one transaction."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._coalescer: Coalescer[UUID, OrderRead | Exception | None] = Coalescer(
            self._read,
            batch_max=ORDERS_PER_READ_MAX,
            in_flight_max=READS_IN_FLIGHT_MAX,
            queue_max=settings.order_listeners_max,
        )

    async def read(self, order_id: UUID) -> OrderRead | None:
        """The order as it is now; None while it has no row. Raises one of `SERVER_ERRORS`, or what nobody foresaw."""
        found = await self._coalescer.ask(order_id)
        if isinstance(found, Exception):
            raise found
        return found

    async def _read(self, order_ids: list[UUID]) -> Sequence[OrderRead | Exception | None]:
        try:
            found = await self._read_together(order_ids)
        except Exception as error:
            if is_transient(error):
                raise
            if len(order_ids) == 1:
                metrics.ITEM_FAILURES.labels("streams").inc()
                return [error]
            # One that cannot be read ends the stream of nobody else.
            return [answer for order_id in order_ids for answer in await self._read([order_id])]
        return [found.get(order_id) for order_id in order_ids]

    async def _read_together(self, order_ids: list[UUID]) -> dict[UUID, OrderRead]:
        async with self._database.transaction() as session:
            await see_one_moment(session)
            return await recorded_each(session, set(order_ids))


async def stream(
    order: OrderRead,
    listener: Listener,
    reader: OrderReader,
    settings: Settings,
    *,
    seen: int | None,
    good_seconds: Callable[[], float],
) -> AsyncIterator[bytes]:
    """The events of an order that was read after `listener` began to listen; its version `seen` is not sent again.

    It ends when the order is closed and its units are back, after `sse_seconds_max`, when the process stops, and when
    the reader's token is no longer good: `good_seconds` says how long it is, and is asked before each event.
    The time to come back stands in the first event: a block of its own would be an empty event to some readers.
    """
    now = asyncio.get_running_loop().time
    ends_at = now() + settings.sse_seconds_max
    retry: int | None = random.randint(RETRY_MS_MIN, RETRY_MS_MAX)  # noqa: S311 - no secret
    while good_seconds() > 0:
        version = listener.known = version_of(order)
        if version != seen:
            yield format_sse_event(data_str=order.model_dump_json(), id=str(version), retry=retry)
            seen, retry = version, None
        if is_final(order):
            return
        while (left := min(ends_at - now(), good_seconds())) > 0 and not listener.stopped:
            if await listener.wait(min(left, settings.sse_heartbeat_seconds)):
                break
            yield HEARTBEAT
        else:
            return
        order = await _read_again(order, reader)


async def _read_again(order: OrderRead, reader: OrderReader) -> OrderRead:
    """The order as it is now, or as it was if that cannot be found out: the next poll wakes the stream again."""
    try:
        return await reader.read(order.id) or order
    except SERVER_ERRORS as error:
        log.warning("order_not_read", reason=repr(error)[:200])
        return order


def is_final(order: OrderRead) -> bool:
    """Whether nothing is awaited any more: it is closed and its units are back, or it is refunded without.

    Money that comes late is told by its timeline and a notification.
    """
    if order.closed_at is None:
        return order.status is OrderStatus.REFUNDED
    return order.released_at is not None


async def poll_orders(database: Database, changes: Changes, settings: Settings, stopping: asyncio.Event) -> None:
    """Wake whoever waits for an order that has changed unannounced, until `stopping`; every order once in a round."""
    isolation = Isolation("changed_orders", settings)
    poll = partial(_poll, database, changes)
    while not stopping.is_set():
        metrics.ORDER_LISTENERS.set(changes.listeners)
        order_ids = changes.followed()
        starts = range(0, len(order_ids), ORDERS_PER_POLL_MAX)
        for start in starts:
            try:
                await isolation.together(order_ids[start : start + ORDERS_PER_POLL_MAX], poll)
            except SERVER_ERRORS as error:
                log.warning("orders_not_polled", reason=repr(error)[:200])
            await sleep_or_stop(stopping, settings.order_poll_seconds / len(starts))
        if not starts:
            await sleep_or_stop(stopping, settings.order_poll_seconds)


async def _poll(database: Database, changes: Changes, order_ids: Sequence[bytes]) -> Sequence[None]:
    async with database.transaction() as session:
        found = await repository.versions(session, [UUID(bytes=order_id) for order_id in order_ids])
    for order_id, version in found.items():
        changes.seen(order_id.bytes, version)
    return ()
