"""The collector: what happened since the last run becomes rows of the outbox, each thing once.

It reads what the shop records anyway, so that a purchase and its drain write nothing for it:

- purchases from the ledgers of sales, up to the watermark, which has no gaps;
- what became of orders, ordinary reservations among it, from their events; and registrations: both in the order of
  transactions, below the oldest one that is still under way, so that a late commit is never passed by;
- holds that are nearly over from the orders themselves.

Positions and rows are one transaction. Nobody listening means that only the positions move.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.failure_isolation import Isolation, is_transient
from shop.notifications.collecting import repository
from shop.notifications.collecting.happenings import Happening, Listeners, listeners_of, notification_rows
from shop.notifications.collecting.repository import Bounds
from shop.notifications.kinds import OF_STATUS, Kind
from shop.notifications.models import CollectorPosition
from shop.settings import Settings

SALES_MAX = 1_000
NARROWING = 8  # how much less is read after a batch that fails, down to the one thing at fault


class Source(StrEnum):
    """Where it is read what happened."""

    PURCHASES = "purchases"
    EVENTS = "events"
    USERS = "users"
    EXPIRING = "expiring"


class Collected(NamedTuple):
    """How many notifications a batch made, and whether there is more to collect."""

    made: int
    has_more: bool


async def collect(database: Database, settings: Settings, isolation: Isolation | None = None) -> int:
    """Collect what happened, in bounded batches; returns how many notifications were made.

    One collector works at a time: another one finds the position locked and leaves.
    """
    isolation = isolation or Isolation("notifications", settings)
    made = 0
    for _ in range(settings.notification_batches_max):
        try:
            async with database.transaction() as session:
                batch = await collect_batch(session, settings, isolation)
        except Exception as error:
            if is_transient(error):
                raise
            batch = await _collect_around(database, settings, isolation)
        made += batch.made
        if not batch.has_more:
            break
    return made


async def collect_batch(
    session: AsyncSession,
    settings: Settings,
    isolation: Isolation | None = None,
    *,
    sources: Collection[Source] = tuple(Source),
    limit: int | None = None,
) -> Collected:
    """Collect one batch in this transaction, unless another collector is at it."""
    position = await repository.lock_position(session)
    if position is None:
        return Collected(made=0, has_more=False)
    isolation = isolation or Isolation("notifications", settings)
    batch = await _Batch.begin(session, position, settings, isolation, limit or settings.notification_batch_max)
    return Collected(made=await batch.collect(sources), has_more=batch.has_more)


async def _collect_around(database: Database, settings: Settings, isolation: Isolation) -> Collected:
    """Collect what a batch was to collect, each source by itself, and pass over the one thing that makes it fail."""
    made = 0
    for source in Source:
        limit = settings.notification_batch_max
        while True:
            try:
                async with database.transaction() as session:
                    made += (await collect_batch(session, settings, isolation, sources=[source], limit=limit)).made
                break
            except Exception as error:
                if is_transient(error):
                    raise
                if limit == 1:
                    await _pass_over(database, source, settings, isolation, error)
                    break
            limit = max(1, limit // NARROWING)
    return Collected(made, has_more=True)


async def _pass_over(
    database: Database, source: Source, settings: Settings, isolation: Isolation, error: Exception
) -> None:
    """Move the position behind what comes next in this source; nobody is told of it, and it is counted."""
    async with database.transaction() as session:
        position = await repository.lock_position(session)
        if position is None:
            return
        bounds = await repository.bounds(session)
        if source is Source.PURCHASES:
            item: object = await repository.pass_over_purchase(session, limit=SALES_MAX)
        elif source is Source.EVENTS:
            item = await repository.pass_over_event(session, position, bounds.tx)
        elif source is Source.USERS:
            item = await repository.pass_over_user(session, position, bounds.tx)
        else:
            notice = timedelta(seconds=settings.expiring_soon_seconds)
            item = await repository.pass_over_expiring(session, position, notice=notice)
    isolation.failed((source, item), error)


class _Batch:
    """One transaction of the collector."""

    def __init__(
        self,
        session: AsyncSession,
        position: CollectorPosition,
        settings: Settings,
        *,
        bounds: Bounds,
        moved: Sequence[repository.MovedSale],
        listeners: Listeners,
        limit: int,
    ) -> None:
        self._session = session
        self._position = position
        self._settings = settings
        self._bounds = bounds
        self._moved = moved
        self._listeners = listeners
        self._limit = limit
        self.has_more = False

    @classmethod
    async def begin(
        cls,
        session: AsyncSession,
        position: CollectorPosition,
        settings: Settings,
        isolation: Isolation,
        limit: int,
    ) -> "_Batch":
        """Look how far to read, and then who listens: a webhook is never passed by what happened after it was made."""
        bounds = await repository.bounds(session)
        moved = await repository.moved_sales(session, limit=SALES_MAX)
        listeners = listeners_of(settings, await repository.webhooks(session), isolation)
        return cls(session, position, settings, bounds=bounds, moved=moved, listeners=listeners, limit=limit)

    async def collect(self, sources: Collection[Source]) -> int:
        """Make the rows and move the positions; returns how many notifications were made."""
        read = {
            Source.PURCHASES: self._purchases,
            Source.EVENTS: self._events,
            Source.USERS: self._users,
            Source.EXPIRING: self._expiring,
        }
        happened = [each for source in sources for each in await read[source]()]
        if not happened:
            return 0
        orders = {each.order.id for each in happened if each.order is not None}
        lines = await repository.lines(self._session, orders) if orders else {}
        readers = {each.user_id for each in happened} if self._listeners.mail else set()
        with_address = await repository.with_address(self._session, readers) if readers else set()
        notifications, deliveries = notification_rows(happened, self._listeners, lines, with_address)
        if not notifications:
            return 0
        new = await repository.add_notifications(self._session, notifications)
        wanted = [row for row in deliveries if row["notification_id"] in new]
        if wanted:
            lasting = timedelta(hours=self._settings.delivery_retry_hours_max)
            await repository.add_deliveries(self._session, wanted, lasting=lasting)
        return len(new)

    async def _purchases(self) -> list[Happening]:
        found: list[Happening] = []
        self.has_more |= len(self._moved) == SALES_MAX
        for sale in self._moved:
            room, epoch, seq = self._limit - len(found), sale.epoch, sale.watermark
            if self._listeners.want(Kind.RESERVED):
                if room == 0:
                    self.has_more = True
                    break
                rows = await repository.reserved(self._session, sale, limit=room)
                found += [Happening(Kind.RESERVED, order.reserved_at, order.user_id, order) for _, _, order in rows]
                if len(rows) == room:
                    self.has_more = True
                    epoch, seq, _ = rows[-1]
            await repository.set_sale_position(self._session, sale.sale_id, epoch=epoch, seq=seq)
        return found

    async def _events(self) -> list[Happening]:
        if not self._listeners.want(*OF_STATUS.values()):
            await repository.skip_events(self._session, self._position, self._bounds.tx)
            return []
        rows = await repository.events(self._session, self._position, self._bounds.tx, limit=self._limit)
        if rows:
            last, _ = rows[-1]
            self._position.event_tx, self._position.event_id = last.tx or 0, last.id
        self.has_more |= len(rows) == self._limit
        return [
            Happening(OF_STATUS[event.status], event.created_at, order.user_id, order, event.reason)
            for event, order in rows
            if event.status in OF_STATUS
        ]

    async def _users(self) -> list[Happening]:
        if not self._listeners.want(Kind.WELCOME):
            await repository.skip_users(self._session, self._position, self._bounds.tx)
            return []
        rows = await repository.registered(self._session, self._position, self._bounds.tx, limit=self._limit)
        if rows:
            self._position.user_tx, self._position.user_id, _ = rows[-1]
        self.has_more |= len(rows) == self._limit
        return [Happening(Kind.WELCOME, at, user_id) for _, user_id, at in rows]

    async def _expiring(self) -> list[Happening]:
        """What nobody wants needs no skipping here: who begins to listen is told of the holds that end soon by then."""
        if not self._listeners.want(Kind.EXPIRING_SOON):
            return []
        orders = await repository.expiring(
            self._session,
            self._position,
            notice=timedelta(seconds=self._settings.expiring_soon_seconds),
            limit=self._limit,
        )
        if orders:
            self._position.expires_at, self._position.expiring_id = orders[-1].expires_at, orders[-1].id
        self.has_more |= len(orders) == self._limit
        return [Happening(Kind.EXPIRING_SOON, self._bounds.now, order.user_id, order) for order in orders]
