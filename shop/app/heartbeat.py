"""The heartbeat of this process, and its report of unpersisted reservations when a recovery asks for it."""

import asyncio
import time
from collections.abc import Container, Iterable, Mapping
from functools import partial
from uuid import UUID, uuid4

import structlog

from shop import metrics
from shop.database import DATABASE_ERRORS, Database
from shop.failure_isolation import Isolation
from shop.sales.incidents import repository
from shop.sales.incidents.models import Recovery
from shop.sales.incidents.repository import Live, Promise
from shop.seckill.group_commit import GroupCommit
from shop.seckill.registry import Registry
from shop.settings import Settings
from shop.stopping import sleep_or_stop

RESERVATIONS_PER_TRANSACTION = 1_000

log = structlog.get_logger(__name__)


async def send_heartbeats(registry: Registry, database: Database, settings: Settings, stopping: asyncio.Event) -> None:
    """Send heartbeats until `stopping` is set. While Postgres is away none is sent, and nothing is forgotten."""
    process_id, healthy, answered_at = uuid4(), True, time.monotonic()
    isolation = Isolation("heartbeat", settings)
    while not stopping.is_set():
        try:
            await _send_heartbeat(registry, database, process_id, isolation)
            healthy, answered_at = True, time.monotonic()
        except DATABASE_ERRORS as error:
            if healthy:
                log.warning("heartbeat_failed", reason=repr(error)[:200])
            healthy = False
            if time.monotonic() - answered_at > settings.heartbeat_silence_seconds_max:
                _stop_selling(registry)
        await sleep_or_stop(stopping, settings.heartbeat_seconds)


def _stop_selling(registry: Registry) -> None:
    """Leave every sale until Postgres says that its epoch is still the one: then the directory gives it back."""
    for group in registry.groups:
        log.warning("sale_left", sale_id=group.sale.sale_id, reason="Postgres answered no heartbeat for too long")
        registry.leave(group)


async def _send_heartbeat(registry: Registry, database: Database, process_id: UUID, isolation: Isolation) -> None:
    with metrics.watched("postgres"):
        async with database.transaction() as session:
            await repository.record_heartbeat(session, process_id)
            await repository.forget_processes(session)
            live = await repository.live(session)
            asked = await repository.asking(session, process_id)
    for group in registry.groups:
        if (now := live.get(group.sale.sale_id)) is not None and now.epoch > group.sale.epoch:
            registry.leave(group)  # Another Redis has taken over, and this process may not have been told.
    registry.replaced = [group for group in registry.replaced if group.unpersisted or not group.idle]
    groups = [*registry.replaced, *registry.groups]
    in_question = {(recovery.sale_id, recovery.from_epoch) for recovery in asked}
    kept = set()
    for group in groups:
        if not await isolation.attempt(_ledger_of(group), partial(_report, database, live, in_question, group), False):
            kept.add(_ledger_of(group))
    for recovery in asked:  # A recovery is answered when all is reported, and not before.
        if (recovery.sale_id, recovery.from_epoch) not in kept:
            answer = partial(_answer, database, process_id, groups, recovery)
            await isolation.attempt(("answer", recovery.sale_id), answer, None)


def _ledger_of(group: GroupCommit) -> tuple[int, int]:
    return group.sale.sale_id, group.sale.epoch


async def _report(
    database: Database, live: Mapping[int, Live], in_question: Container[tuple[int, int]], group: GroupCommit
) -> bool:
    """Forget what is recorded; report what is unpersisted of an epoch that is over or in question. Returns True."""
    sale_id, epoch = _ledger_of(group)
    now = live.get(sale_id)
    if now is None:
        group.reported(len(group.unpersisted))  # The sale is settled: all of it is recorded.
    elif now.epoch > epoch or (sale_id, epoch) in in_question:
        await _write_down(database, group)  # Also what seems to be recorded: the numbers may be another's.
    elif now.epoch == epoch and not now.recovering:  # Else what is recorded may be another's under the same number.
        group.forget(now.watermark)
    return True


async def _answer(database: Database, process_id: UUID, groups: Iterable[GroupCommit], recovery: Recovery) -> None:
    async with database.transaction() as session:
        await repository.answer(session, recovery, process_id, _highest_seq(groups, recovery))


async def _write_down(database: Database, group: GroupCommit) -> None:
    sale = group.sale
    while reserved := group.unpersisted[:RESERVATIONS_PER_TRANSACTION]:
        claims = {
            request.order_id: Promise(
                sale.sale_id, sale.epoch, UUID(bytes=request.order_id), answer.seq, request.user_id, request.quantity
            )
            for request, answer in reserved
        }
        async with database.transaction() as session:
            await repository.add_claims(session, list(claims.values()), source="process")
        group.reported(len(reserved))


def _highest_seq(groups: Iterable[GroupCommit], recovery: Recovery) -> int:
    seen = [
        group.highest_seq
        for group in groups
        if (group.sale.sale_id, group.sale.epoch) == (recovery.sale_id, recovery.from_epoch)
    ]
    return max(seen, default=0)
