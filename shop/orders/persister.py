"""The persister: one sale's stream into Postgres, each event exactly once.

The watermark lives in Postgres, in the transaction of the rows, so nothing is acknowledged and nothing can be lost or
doubled between the two. Two persisters of one sale are harmless: the second finds the watermark moved and drops what
is below it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import asyncpg
import redis.asyncio as aioredis
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.database import Database, backend_pid, end_blockers, sqlstate
from shop.database_engine import named
from shop.failure_isolation import SERVER_ERRORS
from shop.faults import fault_point
from shop.ledger import stream
from shop.ledger.events import LedgerEvent
from shop.orders.batch import BrokenBatch, PoisonedBatch, write_batch
from shop.orders.poison import stop_for_poison
from shop.orders.reading import Position, StreamReader
from shop.sales import repository as sales
from shop.sales.incidents.demand import demand_recovery
from shop.sales.loading import LedgerLost
from shop.sales.models import Sale, SaleStatus
from shop.settings import Settings
from shop.stopping import Backoff, cancel_and_wait

APPLICATION_NAME = "shop-persister"
DATA_CLASSES = ("22", "23")  # SQLSTATE: data exception, integrity constraint violation

log = structlog.get_logger(__name__)


class Persister:
    """Drains one sale until it is settled or `stopping` is set; a batch in hand is always finished.

    `epochs` has the epoch of each sale as it was last read: a recovery may move the sale to another stream.
    """

    def __init__(
        self,
        database: Database,
        client: aioredis.Redis,
        sale_id: int,
        settings: Settings,
        stopping: asyncio.Event,
        *,
        epochs: Mapping[int, int] | None = None,
    ) -> None:
        self._database = database
        self._client = client
        self._sale_id = sale_id
        self._settings = settings
        self._stopping = stopping
        self._epochs = {} if epochs is None else epochs
        self._batch_max = settings.persist_batch_max
        self._position: Position | None = None
        self._stream = StreamReader(client, sale_id)

    async def run(self) -> None:
        """Drain for ever. Data that cannot be right stops the sale; anything else is tried again with a back-off."""
        try:
            await self._drain()
        finally:
            await self._stream.drop_ahead()

    async def _drain(self) -> None:
        backoff = Backoff.of(self._settings)
        while not self._stopping.is_set():
            try:
                if not await self.step():
                    return
                backoff.reset()
                continue
            except PoisonedBatch as error:
                if await self._narrow(error):
                    self._position = None
                    continue
            except LedgerLost as error:
                await self._report_lost(error)
            except SERVER_ERRORS as error:
                metrics.PERSIST_FAILURES.labels("unavailable").inc()
                log.warning("batch_waits", sale_id=self._sale_id, reason=repr(error)[:200])
            self._position = None
            await backoff.wait(self._stopping)

    async def step(self) -> bool:
        """Write one batch, or wait a moment for one; False once the sale is settled.

        Raises LedgerLost or PoisonedBatch, or whatever says that a server is away.
        """
        position = self._position
        if position is None or self._epochs.get(self._sale_id, position.epoch) > position.epoch:
            position = await self._read_position()
        if position is None:
            return False
        self._position = position
        events = await self._stream.next(position, self._batch_max)
        if events is None:
            await self._require_moved(position)
            return True
        if not events:
            await self._wait(position)
            return True
        await self._record(events)
        self._batch_max = self._settings.persist_batch_max
        await self._trim()
        return True

    async def drain_rest(self) -> None:
        """Record what is left in a ledger that is fenced, up to the first entry that is missing or poisoned."""
        await self._record([])  # Whoever was stopped in mid-batch is ended by this.
        try:
            while await self._record_rest():
                pass
        finally:
            await self._stream.drop_ahead()

    async def _record_rest(self) -> bool:
        try:
            self._position = position = await self._read_position()
            if position is None or not (events := await self._stream.next(position, self._batch_max)):
                return False
            await self._record(events)
        except PoisonedBatch:
            if self._batch_max == 1:
                return False
            self._batch_max //= 2
        return True

    async def _record(self, events: Sequence[LedgerEvent]) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.persist_timeout_seconds):
                self._position = await self._write(events)
        except BrokenBatch as error:
            raise PoisonedBatch(str(error), error.seq) from error
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if _is_about_data(error):
                raise PoisonedBatch(repr(error)[:300], None) from error
            raise
        metrics.PERSIST_SECONDS.observe(time.monotonic() - started)

    async def _read_position(self) -> Position | None:
        async with self._database.transaction() as session:
            sale = await sales.find(session, self._sale_id)
            if sale is None or sale.status == SaleStatus.SETTLED:
                return None
            entry = await sales.ledger_entry(session, sale.id, sale.epoch, sale.watermark)
        return Position(sale.epoch, sale.watermark, entry)

    async def _require_moved(self, position: Position) -> None:
        """Only another persister may have taken the kept entry away; else the stream is not the one we know."""
        newest = await self._read_position()
        if newest == position:
            raise LedgerLost(f"the entry at the watermark {position.watermark} is missing or different")
        self._position = newest

    async def _write(self, events: Sequence[LedgerEvent]) -> Position:
        async with self._database.transaction() as session:
            sale = await self._lock(session)
            now = await sales.database_time(session)
            fault_point(self._settings, "stop_in_batch")
            fresh = [event for event in events if event.seq > sale.watermark]
            if self._position is None or sale.epoch != self._position.epoch:
                fresh = []
            if len(fresh) == self._batch_max:
                # Now that the sale is locked: to parse a batch takes this process 8 ms, and Postgres would wait for it.
                self._stream.read_ahead(sale.epoch, fresh[-1], self._batch_max)
            orders = await write_batch(session, sale, fresh, now, self._settings) if fresh else 0
            last = fresh[-1] if fresh else None
            entry = (
                sales.Entry(last.order_id, last.balance)
                if last
                else await sales.ledger_entry(session, sale.id, sale.epoch, sale.watermark)
            )
            position = Position(sale.epoch, sale.watermark, entry)
            fault_point(self._settings, "before_commit")
        metrics.PERSISTED.inc(orders)
        fault_point(self._settings, "after_commit")
        return position

    async def _lock(self, session: AsyncSession) -> Sale:
        """The sale's row, locked. Whoever holds it for too long is a worker that was stopped in mid-batch: end it.

        An idle one ends itself by its timeout; one that was stopped inside COPY is neither idle nor cancellable.
        """
        pid, name = await backend_pid(session), named(self._settings.database_url, APPLICATION_NAME)
        locking = asyncio.ensure_future(sales.lock(session, self._sale_id))
        try:
            while not locking.done():
                await asyncio.wait({locking}, timeout=self._settings.persist_lock_wait_seconds)
                if not locking.done():
                    async with self._database.transaction() as other:
                        ended = await end_blockers(other, pid, application_name=name)
                    log.warning("stuck_worker_ended", sale_id=self._sale_id, backends=ended)
        finally:
            await cancel_and_wait([locking])
        sale = locking.result()
        if sale is None:
            raise LedgerLost("the sale has no row")
        return sale

    async def _wait(self, position: Position) -> None:
        await stream.wait_for_event(
            self._client,
            self._sale_id,
            position.epoch,
            after=position.watermark,
            block_seconds=self._settings.persist_block_seconds,
        )

    async def _trim(self) -> None:
        if self._position is not None and self._position.watermark > 0:
            await stream.trim(self._client, self._sale_id, self._position.epoch, self._position.watermark)

    async def _narrow(self, error: PoisonedBatch) -> bool:
        """Halve the batch until the poisoned entry stands first and alone; then stop the sale for it.

        Returns whether a smaller batch is to be tried at once.
        """
        metrics.PERSIST_FAILURES.labels("data").inc()
        async with self._database.transaction() as session:
            sale = await sales.find(session, self._sale_id)
        next_seq = sale.watermark + 1 if sale else 0
        if self._batch_max > 1 and error.seq != next_seq:
            self._batch_max = max(1, error.seq - next_seq if error.seq else self._batch_max // 2)
            return True
        await stop_for_poison(self._database, self._client, self._sale_id, next_seq, str(error), self._settings)
        return False

    async def _report_lost(self, lost: LedgerLost) -> None:
        """Ask for a recovery, if the sale still is where its ledger was found to be wrong."""
        async with self._database.transaction() as session:
            sale = await sales.find(session, self._sale_id)
        if sale is not None and self._position is not None and sale.epoch == self._position.epoch:
            await demand_recovery(self._database, self._client, sale, str(lost), may_load=True)


def _is_about_data(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return sqlstate(error)[:2] in DATA_CLASSES
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "")[:2] in DATA_CLASSES
    return isinstance(error, asyncpg.DataError | ValueError)
