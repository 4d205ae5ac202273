"""Find what is to be recovered, and do it: one task for each sale, in every worker."""

import asyncio
import time
from functools import partial

import structlog

from shop import metrics
from shop.auth import CONTROLLER
from shop.failure_isolation import SERVER_ERRORS, Isolation
from shop.ledger_owner import is_own
from shop.recovery import repository
from shop.recovery.honouring import honour_claims
from shop.recovery.repository import Need
from shop.recovery.steps import Overtaken, Tools, lease, run_step
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.changes import ChangeOutOfOrder, apply_open_changes
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.demand import demand_recovery
from shop.sales.incidents.models import Recovery, RecoveryStep
from shop.sales.loading import LedgerLost
from shop.sales.models import Sale
from shop.stopping import cancel_and_wait, sleep_or_stop

SALES_AT_ONCE = 4  # of one worker: each builds a ledger, which keeps Redis and Postgres busy
POLL_SECONDS = 0.1
COUNT_SECONDS = 2.0  # between two counts of what was lost, for the metrics

log = structlog.get_logger(__name__)


async def follow_recoveries(tools: Tools, stopping: asyncio.Event) -> None:
    """Recover whatever must be recovered, until `stopping` is set."""
    running: dict[int, asyncio.Task[None]] = {}
    count_at = 0.0
    slots = asyncio.Semaphore(SALES_AT_ONCE)
    isolation = Isolation("recoveries", tools.settings)
    while not stopping.is_set():
        running = {sale_id: task for sale_id, task in running.items() if not task.done()}
        try:
            own = await is_own(tools.database, tools.client)
            for sale_id in (await _sales_in_need(tools) if own else set()) - running.keys():
                attend = partial(_attend, tools, sale_id, slots, stopping)
                running[sale_id] = asyncio.create_task(isolation.attempt(sale_id, attend, None))
            if time.monotonic() >= count_at:
                count_at = time.monotonic() + COUNT_SECONDS
                await _count_losses(tools)
        except SERVER_ERRORS as error:
            log.warning("recoveries_not_read", reason=repr(error)[:200])
        await sleep_or_stop(stopping, tools.settings.controller_interval_seconds)
    await cancel_and_wait(list(running.values()), within=tools.settings.graceful_stop_seconds / 2)


async def _sales_in_need(tools: Tools) -> set[int]:
    async with tools.database.transaction() as session:
        needs = await repository.sales_in_need(session, window_seconds=tools.settings.receipt_window_seconds)
    metrics.RECOVERIES_UNFINISHED.set(sum(need is Need.RECOVERY for _, need in needs))
    return {sale_id for sale_id, _ in needs}


async def _count_losses(tools: Tools) -> None:
    async with tools.database.transaction() as session:
        metrics.PROMISES_LOST.set(await recoveries.lost_at_most(session))


async def _attend(tools: Tools, sale_id: int, slots: asyncio.Semaphore, stopping: asyncio.Event) -> None:
    try:
        await _recover(tools, sale_id, slots, stopping)
        async with slots:
            await _after_recovery(tools, sale_id)
    except Overtaken:
        log.info("recovery_overtaken", sale_id=sale_id)


async def _recover(tools: Tools, sale_id: int, slots: asyncio.Semaphore, stopping: asyncio.Event) -> None:
    """Take one step after the other; while one has to wait, its slot is another sale's."""
    while not stopping.is_set():
        async with slots:
            recovery = await lease(tools, sale_id)
            if recovery is None:
                return
            try:
                advanced = await run_step(tools, recovery)
            except LedgerLost as lost:
                advanced = False
                await _begin_again(tools, recovery, str(lost))
        if not advanced:
            await sleep_or_stop(stopping, POLL_SECONDS)


async def _begin_again(tools: Tools, recovery: Recovery, reason: str) -> None:
    """The new ledger is lost as well: the next recovery starts from its epoch."""
    async with tools.database.transaction() as session:
        sale = await sales.lock(session, recovery.sale_id)
        if sale is not None and await recoveries.advance(session, recovery, RecoveryStep.DONE):
            begun = partial(recoveries.begin, session, sale.id, epoch=sale.epoch, seen=sale.recovery)
            await begun(reason=reason, renew=True)
    log.error("recovery_begins_again", sale_id=recovery.sale_id, n=recovery.n, reason=reason)


async def _after_recovery(tools: Tools, sale_id: int) -> None:
    """Honour what was claimed late, and put back on sale what is held back for nobody any more."""
    window_seconds = tools.settings.receipt_window_seconds
    async with tools.database.transaction() as session:
        if await recoveries.unfinished(session, sale_id) is not None:
            return
        sale = await sales.find(session, sale_id)
        needs = await repository.sales_in_need(session, window_seconds=window_seconds)
    if sale is None:
        return
    try:
        if (sale_id, Need.CLAIMS) in needs:
            await honour_claims(tools.database, tools.client, sale, tools.settings)
        elif (sale_id, Need.RESTORE) in needs:
            await _restore(tools, sale)
    except (LedgerLost, ChangeOutOfOrder) as lost:
        await demand_recovery(tools.database, tools.client, sale, str(lost), may_load=True)


async def _restore(tools: Tools, sale: Sale) -> None:
    async with tools.database.transaction() as session:
        numbered = await service.restore_held_back(session, CONTROLLER, sale.id)
    if numbered is not None:
        await apply_open_changes(tools.database, tools.client, sale.id, sale.epoch, tools.settings)
