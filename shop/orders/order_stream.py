"""One order followed as an event stream: its state first, then each change, and comments while there is none.

No connection to a database is held while a stream waits, and no more of it is kept than which version was told. Those
who are woken at the same time are read together, and what an announcement may have failed to say is found by one poll
for all of them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Self
from uuid import UUID

import structlog

from shop import metrics
from shop.auth import Identity, Revocations
from shop.database import Database
from shop.errors import NotReady, OrderNotFound, Overloaded
from shop.failure_isolation import SERVER_ERRORS, Isolation
from shop.order_news import READING, Changes, Listener
from shop.orders import repository
from shop.orders.order_reader import OrderReader, OrderState
from shop.settings import Settings
from shop.stopping import sleep_or_stop

ORDERS_PER_POLL_MAX = 500
# When a client comes back after its stream was ended; drawn for each, so that they do not all come at once.
RETRY_MS_MIN, RETRY_MS_MAX = 1_000, 4_000
# A stream is silent for at least this share of the longest time: comments of a crowd that came at once lie apart.
SILENCE_SHARE_MIN = 0.5
HEARTBEAT = b": still here\n\n"

Write = Callable[[bytes], Awaitable[None]]

log = structlog.get_logger(__name__)


class Streams:
    """What the event streams of one process share."""

    def __init__(self, changes: Changes, reader: OrderReader, revocations: Revocations, settings: Settings) -> None:
        self.changes = changes
        self.reader = reader
        self.revocations = revocations
        self.settings = settings

    def begin(self, order_id: UUID, buyer: Identity, *, address: str | None, seen: int | None) -> "OrderStream":
        """A stream of this buyer that listens from now on; it is left at the end of its `with` block.

        `address` is what the client's counts as, `seen` the version that it has. Raises Overloaded or RateLimited.
        """
        listener = self.changes.listening(order_id.bytes, account=buyer.user_id, address=address)
        listener.known = READING
        return OrderStream(self, listener, buyer, seen)


class OrderStream:
    """One stream: `open` it, then `tell` what there is to tell."""

    __slots__ = ("_buyer", "_first", "_listener", "_seen", "_streams", "gone")

    def __init__(self, streams: Streams, listener: Listener, buyer: Identity, seen: int | None) -> None:
        self.gone = False
        self._streams = streams
        self._listener = listener
        self._buyer = buyer
        self._seen = seen
        self._first: OrderState | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.__exit__(*error)

    async def open(self) -> bool:
        """Read the order, after those who came before. Whether there is anything to tell, now or later.

        Raises OrderNotFound, also for another buyer's, NotReady, Overloaded when it is not read in time, and
        whatever says that a server is away.
        """
        waiting = asyncio.timeout(self._streams.settings.sse_open_seconds_max)
        try:
            async with waiting:
                state = await self._streams.reader.read(UUID(bytes=self._listener.order_id))
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise Overloaded("Too many begin to follow their orders here") from error
        if state is None or state.user_id != self._buyer.user_id:
            raise OrderNotFound
        self._first = state
        return not (state.final and state.version == self._seen)

    async def tell(self, write: Write) -> None:
        """Write the events, until nothing more can come.

        That is when the order is closed and its units are back, after `sse_seconds_max`, when the process stops, when
        the client has `left`, and when the buyer's token is no longer good, which is asked before each event.
        The time to come back stands in the first event: a block of its own would be an empty event to some readers.
        """
        ends_at = asyncio.get_running_loop().time() + self._streams.settings.sse_seconds_max
        retry: int | None = random.randint(RETRY_MS_MIN, RETRY_MS_MAX)  # noqa: S311 - no secret
        state, self._first = self._first, None
        while self._is_good:
            if state is not None:
                self._listener.known = state.version
                if state.version != self._seen:
                    await write(_event(state, retry))
                    self._seen, retry = state.version, None
                if state.final:
                    return
                state = None
            if not await self._changed(ends_at, write):
                return
            state = await self._read_again()

    def left(self) -> None:
        """The client has gone."""
        self.gone = True
        self._listener.wake(changed=False)

    async def _changed(self, ends_at: float, write: Write) -> bool:
        """Wait until the order has changed, with a comment now and then; False if the stream is over before."""
        silence = self._streams.settings.sse_heartbeat_seconds * random.uniform(SILENCE_SHARE_MIN, 1)  # noqa: S311
        while (left := self._left_seconds(ends_at)) > 0:
            if await self._listener.wait(min(left, silence)):
                return True
            if not self.gone:
                await write(HEARTBEAT)
        return False

    @property
    def _is_good(self) -> bool:
        """Whether a state may be told."""
        return not self.gone and self._streams.revocations.good_seconds(self._buyer) > 0

    def _left_seconds(self, ends_at: float) -> float:
        """How long the stream may last from now on."""
        if self.gone or self._listener.stopped:
            return 0.0
        left = ends_at - asyncio.get_running_loop().time()
        return min(left, self._streams.revocations.good_seconds(self._buyer))

    async def _read_again(self) -> OrderState | None:
        """The order as it is now; None if that cannot be found out: the next poll wakes the stream again."""
        try:
            return await self._streams.reader.read(UUID(bytes=self._listener.order_id))
        except (*SERVER_ERRORS, NotReady):
            return None


def _event(state: OrderState, retry: int | None) -> bytes:
    """A state as an event: JSON has no line end of its own."""
    back = b"" if retry is None else b"retry: %d\n" % retry
    return b"data: %b\nid: %d\n%b\n" % (state.body, state.version, back)


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
