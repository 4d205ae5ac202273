"""The steps of a recovery. Each is one short transaction or one script at a time, and may be repeated by anybody.

fence ─► compare ─► lift ─► done                      nothing was lost: the epoch goes on
             └────► load ─► honour ─► open ─► done    a new epoch, built from Postgres and the reported reservations

Whoever writes the next step does so by comparing and setting: a worker that was stopped and thawed changes nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import redis.asyncio as aioredis
import structlog

from shop import metrics
from shop.database import Database
from shop.faults import recovery_fault_point
from shop.ledger import client as ledger
from shop.ledger import loading
from shop.ledger.client import LedgerOrder
from shop.orders.persister import Persister
from shop.recovery import repository
from shop.recovery.comparing import has_lost_nothing
from shop.recovery.honouring import honour_claims
from shop.recovery.renewing import gather_survivors, renew
from shop.sales import repository as sales
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import Recovery, RecoveryStep
from shop.sales.loading import LedgerLost, build, loaded_sale, open_marked
from shop.sales.models import Sale, SaleEpoch, SaleStatus
from shop.settings import Settings
from shop.stopping import cancel_and_wait

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tools:
    """What a recovery works with; `persister` makes one for a sale."""

    database: Database
    client: aioredis.Redis
    settings: Settings
    persister: Callable[[int], Persister]
    worker_id: UUID = field(default_factory=uuid4)


class Overtaken(Exception):
    """Another worker has taken this recovery over: what was begun here is its business now."""


async def lease(tools: Tools, sale_id: int) -> Recovery | None:
    """The recovery that a sale is in, leased to this worker; None if another one has the lease."""
    async with tools.database.transaction() as session:
        lease_seconds = tools.settings.recovery_lease_seconds
        return await recoveries.lease(session, sale_id, tools.worker_id, lease_seconds=lease_seconds)


async def run_step(tools: Tools, recovery: Recovery) -> bool:
    """Do what the recovery's step says and write the next one; False when it has to wait, or another was first.

    Raises LedgerLost when the new ledger is lost as well.
    """
    recovery_fault_point(tools.settings, recovery.step)
    return await _STEPS[recovery.step](tools, recovery)


async def _fence(tools: Tools, recovery: Recovery) -> bool:
    newest = await loading.newest_epoch(tools.client, recovery.sale_id, recovery.from_epoch)
    await loading.fence(tools.client, recovery.sale_id, range(1, newest + 1), number=recovery.n)
    return await _advance(tools, recovery, RecoveryStep.COMPARE)


async def _compare(tools: Tools, recovery: Recovery) -> bool:
    """Wait for the processes, record what survived, and decide."""
    settings = tools.settings
    async with tools.database.transaction() as session:
        silent = await recoveries.silent_processes(session, recovery, alive_seconds=settings.process_alive_seconds)
        if silent and not await recoveries.waited_long(session, recovery, seconds=settings.recovery_answer_seconds):
            return False
    await tools.persister(recovery.sale_id).drain_rest()
    run_id = await loading.run_id(tools.client)
    if not silent and not recovery.renew and await has_lost_nothing(tools.database, tools.client, recovery):
        async with tools.database.transaction() as session:
            await recoveries.note_run(session, recovery.sale_id, recovery.from_epoch, run_id)
            return await recoveries.advance(session, recovery, RecoveryStep.LIFT)
    await gather_survivors(tools.database, tools.client, recovery)
    recovery_fault_point(settings, "renew")
    return await renew(tools.database, tools.client, recovery)


async def _lift(tools: Tools, recovery: Recovery) -> bool:
    await loading.lift_fence(tools.client, recovery.sale_id, recovery.from_epoch, number=recovery.n)
    return await _finish(tools, recovery, "kept")


async def _load(tools: Tools, recovery: Recovery) -> bool:
    """Build the new ledger and mark it; from then on it is never built again, only opened."""
    sale, epoch = await _new_epoch(tools, recovery)
    await loading.fence(tools.client, sale.id, range(1, sale.epoch), number=recovery.n)
    async with aclosing(_orders(tools, sale.id)) as orders:
        token = epoch.token or await build(tools.database, tools.client, sale, epoch, tools.settings, orders=orders)
    if token is None or not await open_marked(tools.database, tools.client, sale, token, "recovering", tools.settings):
        return False
    return await _advance(tools, recovery, RecoveryStep.HONOUR)


async def _honour(tools: Tools, recovery: Recovery) -> bool:
    """Reserve what was promised, before anybody else may buy."""
    sale, _ = await _new_epoch(tools, recovery)
    await honour_claims(tools.database, tools.client, sale, tools.settings)
    return await _advance(tools, recovery, RecoveryStep.OPEN)


async def _open(tools: Tools, recovery: Recovery) -> bool:
    sale, epoch = await _new_epoch(tools, recovery)
    state = "ended" if sale.status == SaleStatus.ENDED else "paused" if sale.paused else "open"
    await open_marked(tools.database, tools.client, sale, epoch.token or "", state, tools.settings)
    await ledger.list_in_directory(tools.client, loaded_sale(sale))
    await loading.forget_epochs(tools.client, sale.id, range(1, sale.epoch))
    recovery_fault_point(tools.settings, "done")
    return await _finish(tools, recovery, "renewed")


_STEPS: Mapping[RecoveryStep, Callable[[Tools, Recovery], Awaitable[bool]]] = {
    RecoveryStep.FENCE: _fence,
    RecoveryStep.COMPARE: _compare,
    RecoveryStep.LIFT: _lift,
    RecoveryStep.LOAD: _load,
    RecoveryStep.HONOUR: _honour,
    RecoveryStep.OPEN: _open,
}


async def _new_epoch(tools: Tools, recovery: Recovery) -> tuple[Sale, SaleEpoch]:
    async with tools.database.transaction() as session:
        sale = await sales.find(session, recovery.sale_id)
        epoch = await sales.find_epoch(session, recovery.sale_id, recovery.to_epoch or 0)
    if sale is None or epoch is None or sale.epoch != epoch.epoch:
        raise LedgerLost(f"the sale is not at epoch {recovery.to_epoch} any more")
    return sale, epoch


async def _orders(tools: Tools, sale_id: int) -> AsyncGenerator[list[tuple[bytes, LedgerOrder]], None]:
    """All orders of a sale, each page in a transaction of its own: nothing releases them while the ledger is away.

    The next page is read while Redis takes the one before. Raises Overtaken.
    """
    reading = asyncio.ensure_future(_page(tools, sale_id, None))
    try:
        while page := await reading:
            reading = asyncio.ensure_future(_page(tools, sale_id, UUID(bytes=page[-1][0])))
            yield page
    finally:
        await cancel_and_wait([reading])


async def _page(tools: Tools, sale_id: int, after: UUID | None) -> list[tuple[bytes, LedgerOrder]]:
    if await lease(tools, sale_id) is None:
        raise Overtaken
    async with tools.database.transaction() as session:
        return await repository.page(session, sale_id, after=after, limit=loading.ORDERS_PER_CHUNK)


async def _advance(tools: Tools, recovery: Recovery, to: RecoveryStep) -> bool:
    async with tools.database.transaction() as session:
        return await recoveries.advance(session, recovery, to)


async def _finish(tools: Tools, recovery: Recovery, outcome: str) -> bool:
    async with tools.database.transaction() as session:
        finished = await recoveries.advance(session, recovery, RecoveryStep.DONE)
        if finished:
            await sales.update_sale(session, recovery.sale_id, alarm=None)
    if finished:
        metrics.RECOVERIES.labels(outcome).inc()
        log.warning(
            "recovered", sale_id=recovery.sale_id, n=recovery.n, epoch=outcome, unexplained=recovery.unexplained
        )
    return finished
