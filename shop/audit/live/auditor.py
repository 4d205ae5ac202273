"""The audit that goes on by itself, in every worker: a pass over all sales every few seconds.

A sale where nothing has happened costs its share of one query, one round trip to Redis and one update for all of them.
Where something has happened, only what is new is read. Two auditors beside each other do the same work twice, no more:
the verified position moves by compare and set, and a sale is stopped once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

import redis.asyncio as aioredis
import structlog

from shop import metrics
from shop.audit.invariants import Position, sentences_of, violations
from shop.audit.live import repository
from shop.audit.live.repository import Watched
from shop.audit.live.snapshot import Snapshot, evidence, of_full_pass, take_snapshot
from shop.audit.live.stop_sale import count, stop_sale
from shop.audit.service import pass_fully
from shop.database import Database
from shop.errors import NotReady, SaleNotFound, SaleStateConflict
from shop.failure_isolation import SERVER_ERRORS, Isolation, is_transient
from shop.faults import fault_point
from shop.ledger import loading
from shop.sales import repository as sales
from shop.sales.loading import FIRST_EPOCH, LedgerLost, require_agreement, require_entry_at_watermark
from shop.settings import Settings
from shop.stopping import sleep_or_stop

FINISHED_AT_ONCE_MAX = 10  # full passes of settled sales in one round
SNAPSHOTS_MAX = 20  # of each sale that has more, in one round; then the others are verified as well

log = structlog.get_logger(__name__)


class Auditor:
    """One auditor; it remembers which sales it shows in the metrics."""

    def __init__(self, database: Database, client: aioredis.Redis, settings: Settings, stopping: asyncio.Event) -> None:
        self._database = database
        self._client = client
        self._settings = settings
        self._stopping = stopping
        self._shown: set[int] = set()
        self._isolation = Isolation("auditor", settings)

    async def run(self) -> None:
        """Audit until `stopping` is set; what fails because a server is away is tried again at the next round."""
        while not self._stopping.is_set():
            has_more = False
            try:
                has_more = await self.step()
            except SERVER_ERRORS as error:
                log.warning("audit_waits", reason=repr(error)[:200])
            if not has_more:
                await sleep_or_stop(self._stopping, self._settings.audit_interval_seconds)

    async def step(self) -> bool:
        """One round over all sales; tells whether there is more to verify at once."""
        at, watched = await self._watched()
        self._show(watched)
        active = [each for each in watched if not each.suspended]
        quiet = await self._quiet(active)
        await self._touch(quiet, at)
        known_good = {each.sale_id for each in quiet}
        due = [each for each in active if each.sale_id not in known_good]
        for each in due:
            if each.position is None:
                await self._attempt(each.sale_id, partial(self._begin, each))
        sale_ids = [each.sale_id for each in due]
        for _ in range(SNAPSHOTS_MAX):
            if self._stopping.is_set():
                return False
            sale_ids = [each for each in sale_ids if await self._attempt(each, partial(self._audit, each))]
        async with self._database.transaction() as session:
            settled = await repository.unfinished(session, limit=FINISHED_AT_ONCE_MAX + self._isolation.count)
        for sale_id in settled:
            await self._attempt(sale_id, partial(self._finish, sale_id))
        return bool(sale_ids)

    async def _attempt(self, sale_id: int, work: Callable[[], Awaitable[bool]]) -> bool:
        """What fails with one sale does not keep the others waiting."""

        async def attempt() -> bool:
            try:
                return await work()
            except (NotReady, SaleNotFound, SaleStateConflict) as error:
                log.warning("audit_of_sale_waits", sale_id=sale_id, reason=repr(error)[:200])
                return False

        return await self._isolation.attempt(sale_id, attempt, False)

    async def _watched(self) -> tuple[datetime, list[Watched]]:
        """All alive sales, and a moment at which they were so; a row that cannot be read does not hide the others."""

        async def read(sale_ids: Sequence[int]) -> list[Watched]:
            async with self._database.transaction() as session:
                return (await repository.watched(session, sale_ids))[1]

        try:
            async with self._database.transaction() as session:
                return await repository.watched(session)
        except Exception as error:
            if is_transient(error):
                raise
        async with self._database.transaction() as session:
            at = await sales.database_time(session)
            names = await sales.alive_names(session)
        return at, await self._isolation.together([name.sale_id for name in names], read)

    async def _quiet(self, active: Sequence[Watched]) -> list[Watched]:
        """Those that are as they were verified, in Postgres and in Redis."""
        verified = [each for each in active if each.is_verified]
        heads = await loading.read_heads(self._client, [(each.sale_id, each.epoch) for each in verified])
        return [
            each
            for each, head in zip(verified, heads, strict=True)
            if head == (each.watermark, each.balance, each.held_back)
        ]

    async def _touch(self, quiet: Sequence[Watched], at: datetime) -> None:
        async def touch(some: Sequence[Watched]) -> Sequence[Watched]:
            async with self._database.transaction() as session:
                await repository.touch(session, some, at=at)
            return some

        for each in await self._isolation.together(quiet, touch, key=lambda each: each.sale_id):
            metrics.AUDIT_GOOD_AT.labels(str(each.sale_id)).set(at.timestamp())

    async def _begin(self, each: Watched) -> bool:
        """Where to start: at the first row, or in a later epoch, which begins with orders, at a full pass."""
        if each.epoch == FIRST_EPOCH:
            async with self._database.transaction() as session:
                epoch = await sales.find_epoch(session, each.sale_id, each.epoch)
                if epoch is not None:
                    await repository.begin(
                        session, each.sale_id, Position(each.epoch, 0, epoch.opening_balance, 0, 0, 0)
                    )
            return True
        found = await self._full_snapshot(each.sale_id)
        if found.sale.epoch != each.epoch:
            return False
        if any(found.violations.values()):
            if not await self._is_lost(found):
                await stop_sale(self._database, self._client, found, self._settings)
            return False
        async with self._database.transaction() as session:
            await repository.begin(session, each.sale_id, found.counted.as_verified)
        return True

    async def _audit(self, sale_id: int) -> bool:
        """Verify what is new in a sale; tells whether there is more."""
        found = await take_snapshot(self._database, self._client, sale_id, self._settings)
        if found is not None and any(found.violations.values()):
            found = await take_snapshot(self._database, self._client, sale_id, self._settings)
            if found is not None and any(found.violations.values()):
                if not await self._is_lost(found):
                    await stop_sale(self._database, self._client, found, self._settings)
                return False
        if found is None:
            return False
        fault_point(self._settings, "stop_before_verified")
        at = found.at if found.in_redis is not None else None
        async with self._database.transaction() as session:
            first = await repository.advance(session, sale_id, found.counted.start, found.counted.position, at=at)
        if first:
            self._show_good(found, at)
        else:
            log.info("audit_overtaken", sale_id=sale_id, seq=found.counted.start.seq)
        return first and found.has_more

    async def _is_lost(self, found: Snapshot) -> bool:
        """Whether Redis has lost something, and Postgres is right: then it is recovered, and nobody has to be asked."""
        if any(violations(found.counted, None).values()):
            return False
        try:
            await require_agreement(self._client, found.sale)
            await require_entry_at_watermark(self._database, self._client, found.sale)
        except LedgerLost as lost:
            log.info("audit_leaves_it_to_the_recovery", sale_id=found.sale.id, reason=str(lost))
            return True
        return False

    async def _full_snapshot(self, sale_id: int) -> Snapshot:
        """A full pass, and a second one when the first finds something."""
        found = of_full_pass(await pass_fully(self._database, self._client, sale_id))
        if any(found.violations.values()):
            found = of_full_pass(await pass_fully(self._database, self._client, sale_id))
        return found

    async def _finish(self, sale_id: int) -> bool:
        """The last pass over a sale that is settled: a full one. Nobody sells there any more; it is written down."""
        found = await self._full_snapshot(sale_id)
        sentences = sentences_of(found.violations)
        async with self._database.transaction() as session:
            locked = await sales.lock(session, sale_id)
            if locked is None or not await repository.finish(session, sale_id):
                return False
            if sentences:
                await repository.add_finding(
                    session, locked, watermark=locked.watermark, violations=sentences, evidence=evidence(found)
                )
        if sentences:
            count(found)
            log.error("settled_sale_is_wrong", sale_id=sale_id, violations=sentences)
        return True

    def _show(self, watched: Iterable[Watched]) -> None:
        """The state of every sale as it is written down; sales that are over are shown no more."""
        shown = set()
        for each in watched:
            shown.add(each.sale_id)
            verified = each.position.seq if each.position else 0
            metrics.AUDIT_LAG.labels(str(each.sale_id)).set(each.watermark - verified)
            if each.checked_at is not None:
                metrics.AUDIT_GOOD_AT.labels(str(each.sale_id)).set(each.checked_at.timestamp())
        for sale_id in self._shown - shown:
            metrics.forget_sale(sale_id)
        self._shown = shown

    @staticmethod
    def _show_good(found: Snapshot, at: datetime | None) -> None:
        sale_id = str(found.sale.id)
        metrics.AUDIT_LAG.labels(sale_id).set(found.sale.watermark - found.counted.position.seq)
        if at is not None:
            metrics.AUDIT_GOOD_AT.labels(sale_id).set(at.timestamp())
