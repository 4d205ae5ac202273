"""A sale's stream, read from where Postgres has recorded it up to, and one batch ahead of what is being recorded."""

import asyncio
from dataclasses import dataclass

import redis.asyncio as aioredis
import structlog

from shop.ledger import stream
from shop.ledger.events import LedgerEvent, UnreadableEvent, parse_event
from shop.orders.batch import PoisonedBatch
from shop.sales import repository as sales
from shop.sales.loading import is_recorded
from shop.stopping import cancel_and_wait

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Position:
    """Up to where Postgres has recorded a sale, and what it recorded there."""

    epoch: int
    watermark: int
    entry: sales.Entry | None


class StreamReader:
    """Reads what follows a position in the stream of one sale. Whoever has done with it calls `drop_ahead`."""

    def __init__(self, client: aioredis.Redis, sale_id: int) -> None:
        self._client = client
        self._sale_id = sale_id
        self._ahead: tuple[Position, asyncio.Task[list[LedgerEvent] | None]] | None = None

    async def next(self, position: Position, count: int) -> list[LedgerEvent] | None:
        """As `read`, without waiting where this was read ahead."""
        if self._ahead is not None and self._ahead[0] == position:
            reading, self._ahead = self._ahead[1], None
            return await reading
        await self.drop_ahead()
        return await self.read(position, count)

    def read_ahead(self, epoch: int, last: LedgerEvent, count: int) -> None:
        """Begin to read what follows an event that is about to be recorded."""
        position = Position(epoch, last.seq, sales.Entry(last.order_id, last.balance))
        self._ahead = position, asyncio.ensure_future(self.read(position, count))

    async def drop_ahead(self) -> None:
        """Forget what was read ahead, and end the reading of it."""
        if self._ahead is not None:
            reading, self._ahead = self._ahead[1], None
            await cancel_and_wait([reading])
            if not reading.cancelled() and reading.exception():
                log.info("read_ahead_dropped", sale_id=self._sale_id, reason=repr(reading.exception())[:200])

    async def read(self, position: Position, count: int) -> list[LedgerEvent] | None:
        """Up to `count` events that follow; None if the entry at the position is not the recorded one.

        What stands before an unreadable entry is returned. Raises PoisonedBatch when that comes first, and whatever
        says that Redis is away.
        """
        recorded_before = min(position.watermark, 1)
        found = await stream.events_from(
            self._client, self._sale_id, position.epoch, position.watermark, recorded_before + count
        )
        if recorded_before:
            kept, found = found[:1], found[1:]
            if not kept or kept[0][0] != position.watermark or not is_recorded(*kept[0], position.entry):
                return None
        events: list[LedgerEvent] = []
        for seq, fields in found:
            try:
                events.append(parse_event(seq, fields))
            except UnreadableEvent as error:
                if events:
                    break
                raise PoisonedBatch(str(error), seq) from error
        return events
