"""The controller: makes each ledger follow what Postgres says, and loads the scripts. It runs in every worker.

Every step is a compare-and-set in Postgres or one script, so two controllers, or one that was stopped and thawed,
change nothing twice. It reports a ledger that does not agree with Postgres, fences it, and never sets its stock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import redis.asyncio as aioredis
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.auth import CONTROLLER
from shop.database import UNAVAILABLE_ERRORS, Database
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown, load_scripts, scripts_loaded
from shop.sales import repository, service
from shop.sales.changes import ChangeOutOfOrder, apply_open_changes
from shop.sales.loading import (
    LedgerLost,
    keep_closed,
    load,
    loaded_sale,
    require_agreement,
    require_entry_at_watermark,
)
from shop.sales.models import ChangeKind, Sale, SaleStatus
from shop.sales.repository import Alive
from shop.seckill import ledger
from shop.seckill.ledger import LedgerState, LoadedSale, RedisClock
from shop.settings import Settings
from shop.stopping import rest

PASSING_ERRORS = (*UNAVAILABLE_ERRORS, *CONNECTION_ERRORS, DBAPIError, NotSent, OutcomeUnknown)

log = structlog.get_logger(__name__)


class Controller:
    """One controller. `unfinished` tells whether a sale still has orders that are reserved or owe their units back."""

    def __init__(
        self,
        database: Database,
        client: aioredis.Redis,
        side_client: aioredis.Redis,
        settings: Settings,
        stopping: asyncio.Event,
        *,
        unfinished: Callable[[AsyncSession, int], Awaitable[bool]],
    ) -> None:
        self._database = database
        self._client = client
        self._side_client = side_client
        self._settings = settings
        self._stopping = stopping
        self._unfinished = unfinished

    async def run(self) -> None:
        """Follow until `stopping` is set; what fails because a server is away is tried again at the next pass."""
        healthy = True
        while not self._stopping.is_set():
            try:
                await self.step()
                healthy = True
            except PASSING_ERRORS as error:
                if healthy:
                    log.warning("controller_waits", reason=repr(error))
                healthy = False
            await rest(self._stopping, self._settings.controller_interval_seconds)

    async def step(self) -> None:
        """One pass over all sales that have a ledger or should have one."""
        async with self._database.transaction() as session:
            alive = await repository.alive(session)
        await self._ensure_scripts([each.sale for each in alive if each.loaded])
        metrics.ALARMS.set(sum(each.sale.alarm is not None for each in alive))
        listed = {entry.sale_id: entry for entry in await ledger.read_directory(self._client, RedisClock())}
        await self._forget_settled(listed.keys() - {each.sale.id for each in alive})
        for each in alive:
            try:
                await self._follow(each, listed.get(each.sale.id))
            except (LedgerLost, ChangeOutOfOrder) as error:
                await keep_closed(self._database, self._client, each.sale, str(error))

    async def _ensure_scripts(self, loaded: Sequence[Sale]) -> None:
        """Load the scripts where they are missing; on the ledger's Redis, only after every ledger was compared.

        A Redis that does not know the scripts was restarted, perhaps from an older state. Until they are there nobody
        can sell, which makes their absence a fence.
        """
        if self._side_client is not self._client and not await scripts_loaded(self._side_client):
            await load_scripts(self._side_client)
        if await scripts_loaded(self._client):
            return
        for sale in loaded:
            try:
                await require_agreement(self._client, sale)
                await require_entry_at_watermark(self._database, self._client, sale)
            except LedgerLost as error:
                await keep_closed(self._database, self._client, sale, str(error))
        await load_scripts(self._client)
        log.info("scripts_loaded")

    async def _forget_settled(self, sale_ids: Iterable[int]) -> None:
        for sale_id in sale_ids:
            async with self._database.transaction() as session:
                sale = await repository.find(session, sale_id)
            if sale is not None and sale.status == SaleStatus.SETTLED:
                await ledger.drop(self._client, sale_id, sale.epoch)

    async def _follow(self, alive: Alive, listed: LoadedSale | None) -> None:
        sale = alive.sale
        if not alive.loaded:
            await load(self._database, self._client, sale, self._settings)
            return
        state = await require_agreement(self._client, sale)
        if state.state == "loading":
            await load(self._database, self._client, sale, self._settings)
            return
        metrics.UNITS_AVAILABLE.labels(str(sale.id)).set(state.available)
        metrics.STREAM_LAG.labels(str(sale.id)).set(state.seq - sale.watermark)
        if listed != loaded_sale(sale):
            await ledger.list_in_directory(self._client, loaded_sale(sale))
        numbered = await self._end_or_settle(sale, state)
        if numbered or alive.has_open_changes:
            await apply_open_changes(self._database, self._client, sale.id, sale.epoch, self._settings)

    async def _end_or_settle(self, sale: Sale, state: LedgerState) -> bool:
        """Number the change that the clock or the orders ask for; tells whether there is one."""
        is_over = state.state in {"open", "paused"} and state.now_ms >= state.ends_ms
        is_drained = sale.status == SaleStatus.ENDED and state.seq == sale.watermark
        if not is_over and not is_drained:
            return False
        async with self._database.transaction() as session:
            if is_over:
                return await service.end_or_settle(session, CONTROLLER, sale.id, ChangeKind.END) is not None
            if await self._unfinished(session, sale.id):
                return False
            return await service.end_or_settle(session, CONTROLLER, sale.id, ChangeKind.SETTLE) is not None
