"""The controller: makes each ledger follow what Postgres says, and loads the scripts. It runs in every worker.

Every step is a compare-and-set in Postgres or one script, so two controllers, or one that was stopped and thawed,
change nothing twice. It never sets stock: a ledger that does not agree with Postgres is closed, and recovered by
`shop.recovery`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import redis.asyncio as aioredis
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.auth import CONTROLLER
from shop.database import Database
from shop.failure_isolation import SERVER_ERRORS, Isolation, is_transient
from shop.ledger import client as ledger
from shop.ledger import loading
from shop.ledger.client import LedgerState, LoadedSale, RedisClock
from shop.ledger_owner import ADVICE, claim_ledger, is_foreign, owner_of_ledger
from shop.redis import load_scripts, scripts_loaded
from shop.sales import repository, service
from shop.sales.changes import ChangeOutOfOrder, apply_open_changes
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.demand import demand_recovery
from shop.sales.loading import (
    LedgerLost,
    load,
    loaded_sale,
    require_agreement,
    require_entry_at_watermark,
)
from shop.sales.models import ChangeKind, Sale, SaleStatus
from shop.sales.repository import Alive, AliveName
from shop.settings import Settings
from shop.stopping import sleep_or_stop

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
        self._foreign = False
        self._isolation = Isolation("controller", settings)

    async def run(self) -> None:
        """Follow until `stopping` is set; what fails because a server is away is tried again at the next pass."""
        healthy = True
        while not self._stopping.is_set():
            try:
                await self.step()
                healthy = True
            except SERVER_ERRORS as error:
                if healthy:
                    log.warning("controller_waits", reason=repr(error))
                healthy = False
            await sleep_or_stop(self._stopping, self._settings.controller_interval_seconds)

    async def step(self) -> None:
        """One pass over all sales that have a ledger or should have one. What one of them raises is its own."""
        with metrics.watched("redis"):
            run_id = await loading.run_id(self._client)
        with metrics.watched("postgres"):
            alive, unreadable = await self._read_alive()
        if not await self._is_own_ledger():
            return
        await self._compare_after_restart(alive, run_id)
        await self._ensure_scripts(alive, unreadable)
        metrics.ALARMS.set(sum(each.sale.alarm is not None for each in alive))
        metrics.SALES_STOPPED.set(sum(each.stopped for each in alive))
        listed = {entry.sale_id: entry for entry in await ledger.read_directory(self._client, RedisClock())}
        gone = listed.keys() - {each.sale.id for each in alive} - {name.sale_id for name in unreadable}
        await self._isolation.each(gone, self._forget_settled)
        await self._isolation.each(alive, partial(self._attend, listed), key=lambda each: each.sale.id)

    async def _is_own_ledger(self) -> bool:
        """Whether this database's shop may use this Redis; one that nobody has claimed is claimed."""
        foreign = await is_foreign(self._database, self._client)
        if not foreign and await owner_of_ledger(self._client) is None:
            foreign = await self._has_only_strange_sales()
            if not foreign:
                await claim_ledger(self._database, self._client)
        metrics.LEDGER_FOREIGN.set(foreign)
        if foreign and not self._foreign:
            log.error("ledger_is_foreign", advice=ADVICE)
        self._foreign = foreign
        return not foreign

    async def _has_only_strange_sales(self) -> bool:
        """Whether a ledger that an older release has used has sales, and this database made none of them."""
        listed = await ledger.read_directory(self._client, RedisClock())
        async with self._database.transaction() as session:
            ours = [await repository.find(session, entry.sale_id) for entry in listed]
        same = (sale is not None and sale.salt == entry.salt for sale, entry in zip(ours, listed, strict=True))
        return bool(listed) and not any(same)

    async def _read_alive(self) -> tuple[Sequence[Alive], Sequence[AliveName]]:
        """The alive sales, and the names of those whose rows cannot be read; such a row does not hide the others."""
        try:
            return await self._read(None), ()
        except Exception as error:
            if is_transient(error):
                raise
        async with self._database.transaction() as session:
            names = {name.sale_id: name for name in await repository.alive_names(session)}
        alive = await self._isolation.together(list(names), self._read)
        for each in alive:
            names.pop(each.sale.id, None)
        return alive, list(names.values())

    async def _read(self, sale_ids: Sequence[int] | None) -> Sequence[Alive]:
        async with self._database.transaction() as session:
            return await repository.alive(session, sale_ids)

    async def _compare_after_restart(self, alive: Sequence[Alive], run_id: str) -> None:
        """Another run of Redis may have begun with older data: only the processes that sold know how far it was."""
        for each in alive:
            if each.loaded and not each.recovering and not each.stopped and each.run_id != run_id:
                await self._closed_unless(each, partial(self._note_run, each, run_id))

    async def _note_run(self, each: Alive, run_id: str) -> bool:
        if each.run_id is not None:
            await self._demand_recovery(each.sale, "Redis is in another run")
        else:
            async with self._database.transaction() as session:
                await recoveries.note_run(session, each.sale.id, each.sale.epoch, run_id)
        return True

    async def _ensure_scripts(self, alive: Sequence[Alive], unreadable: Sequence[AliveName]) -> None:
        """Load the scripts where they are missing; on the ledger's Redis, only after every ledger was compared.

        A Redis that does not know the scripts was restarted, perhaps from an older state. Until they are there nobody
        can sell, which makes their absence a fence. A ledger that cannot be compared gets a fence of its own.
        """
        if self._side_client is not self._client and not await scripts_loaded(self._side_client):
            await load_scripts(self._side_client)
        if await scripts_loaded(self._client):
            return
        for each in alive:
            await self._closed_unless(each, partial(self._compare, each))
        for name in unreadable:
            await self._keep_closed(name)
        await load_scripts(self._client)
        log.info("scripts_loaded")

    async def _closed_unless(self, each: Alive, compare: Callable[[], Awaitable[bool]]) -> None:
        """Compare a ledger with what is recorded; close it if that fails as nobody foresaw."""
        if not await self._isolation.run(("comparing", each.sale.id), compare, False):
            await self._keep_closed(each.name)

    async def _compare(self, each: Alive) -> bool:
        if each.recovering:
            await self._fence_again(each.sale.id)
        elif each.stopped:
            await self._keep_closed(each.name)
        elif each.loaded:
            try:
                await require_agreement(self._client, each.sale)
                await require_entry_at_watermark(self._database, self._client, each.sale)
            except LedgerLost as error:
                await self._demand_recovery(each.sale, str(error))
        return True

    async def _demand_recovery(self, sale: Sale, reason: str) -> None:
        await demand_recovery(self._database, self._client, sale, reason, may_load=True)

    async def _fence_again(self, sale_id: int) -> None:
        """A fence that was set before Redis stopped may be gone with what else it has forgotten."""
        async with self._database.transaction() as session:
            recovery = await recoveries.unfinished(session, sale_id)
        if recovery is not None:
            await loading.fence(self._client, sale_id, range(1, recovery.from_epoch + 1), number=recovery.n)

    async def _keep_closed(self, name: AliveName) -> None:
        """Fence a ledger that an audit found wrong, or that cannot be compared.

        Whoever was to fence it may have died, and Redis may have forgotten the fence.
        """
        await loading.fence(self._client, name.sale_id, [name.epoch], number=name.recovery + 1)

    async def _forget_settled(self, sale_id: int) -> None:
        async with self._database.transaction() as session:
            sale = await repository.find(session, sale_id)
        if sale is not None and sale.status == SaleStatus.SETTLED:
            await ledger.drop(self._client, sale_id, sale.epoch)

    async def _attend(self, listed: Mapping[int, LoadedSale], each: Alive) -> None:
        if each.recovering:
            return
        if each.stopped:
            await self._keep_closed(each.name)
            return
        try:
            await self._follow(each, listed.get(each.sale.id))
        except (LedgerLost, ChangeOutOfOrder) as error:
            await self._demand_recovery(each.sale, str(error))

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
        metrics.UNITS_HELD_BACK.labels(str(sale.id)).set(state.held_back)
        metrics.STREAM_LAG.labels(str(sale.id)).set(state.seq - sale.watermark)
        if listed != loaded_sale(sale):
            await ledger.list_in_directory(self._client, loaded_sale(sale))
        numbered = await self._end_or_settle(sale, state)
        if numbered or alive.has_open_changes:
            await apply_open_changes(self._database, self._client, sale.id, sale.epoch, self._settings)

    async def _end_or_settle(self, sale: Sale, state: LedgerState) -> bool:
        """Number the change that the clock or the orders ask for; tells whether there is one."""
        is_over = state.state in {"open", "paused"} and state.now_ms >= state.ends_ms
        is_drained = sale.status == SaleStatus.ENDED and state.seq == sale.watermark and sale.held_back == 0
        if not is_over and not is_drained:
            return False
        async with self._database.transaction() as session:
            if is_over:
                return await service.end_or_settle(session, CONTROLLER, sale.id, ChangeKind.END) is not None
            if await self._unfinished(session, sale.id):
                return False
            return await service.end_or_settle(session, CONTROLLER, sale.id, ChangeKind.SETTLE) is not None
