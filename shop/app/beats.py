"""The beat of this process: it tells Postgres that it lives, and hands in what it promised when a recovery asks."""

import asyncio
import time
from collections.abc import Container, Iterable, Mapping
from functools import partial
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import DBAPIError

from shop import metrics
from shop.database import UNAVAILABLE_ERRORS, Database
from shop.isolation import Isolation
from shop.sales.incidents import repository
from shop.sales.incidents.models import Recovery
from shop.sales.incidents.repository import Live, Promise
from shop.seckill.group_commit import GroupCommit
from shop.seckill.registry import Registry
from shop.settings import Settings
from shop.stopping import rest

PROMISES_PER_TRANSACTION = 1_000

log = structlog.get_logger(__name__)


async def follow_beats(registry: Registry, database: Database, settings: Settings, stopping: asyncio.Event) -> None:
    """Beat until `stopping` is set. Without Postgres there is no beat, and the memory is kept."""
    process_id, healthy, heard = uuid4(), True, time.monotonic()
    isolation = Isolation("beats", settings)
    while not stopping.is_set():
        try:
            await _beat(registry, database, process_id, isolation)
            healthy, heard = True, time.monotonic()
        except (*UNAVAILABLE_ERRORS, DBAPIError) as error:
            if healthy:
                log.warning("beat_waits", reason=repr(error)[:200])
            healthy = False
            if time.monotonic() - heard > settings.unheard_seconds_max:
                _stop_selling(registry)
        await rest(stopping, settings.beat_seconds)


def _stop_selling(registry: Registry) -> None:
    """Leave every sale until Postgres says that its epoch is still the one: then the directory gives it back."""
    for group in registry.groups:
        log.warning("sale_left", sale_id=group.sale.sale_id, reason="nothing was heard from Postgres for too long")
        registry.leave(group)


async def _beat(registry: Registry, database: Database, process_id: UUID, isolation: Isolation) -> None:
    with metrics.watched("postgres"):
        async with database.transaction() as session:
            await repository.beat(session, process_id)
            await repository.forget_processes(session)
            live = await repository.live(session)
            asked = await repository.asking(session, process_id)
    for group in registry.groups:
        if (now := live.get(group.sale.sale_id)) is not None and now.epoch > group.sale.epoch:
            registry.leave(group)  # Another Redis has taken over, and this process may not have been told.
    registry.replaced = [group for group in registry.replaced if group.undrained or not group.idle]
    groups = [*registry.replaced, *registry.groups]
    in_question = {(recovery.sale_id, recovery.from_epoch) for recovery in asked}
    kept = set()
    for group in groups:
        if not await isolation.attempt(_ledger_of(group), partial(_hand_in, database, live, in_question, group), False):
            kept.add(_ledger_of(group))
    for recovery in asked:  # Whoever asks is told when all is handed in, and not before.
        if (recovery.sale_id, recovery.from_epoch) not in kept:
            answer = partial(_answer, database, process_id, groups, recovery)
            await isolation.attempt(("answer", recovery.sale_id), answer, None)


def _ledger_of(group: GroupCommit) -> tuple[int, int]:
    return group.sale.sale_id, group.sale.epoch


async def _hand_in(
    database: Database, live: Mapping[int, Live], in_question: Container[tuple[int, int]], group: GroupCommit
) -> bool:
    """Forget what is recorded; write down what was promised in an epoch that is over or in question. Returns True."""
    sale_id, epoch = _ledger_of(group)
    now = live.get(sale_id)
    if now is None:
        group.handed_in(len(group.undrained))  # The sale is settled: all of it is recorded.
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
    while promised := group.undrained[:PROMISES_PER_TRANSACTION]:
        claims = {
            request.order_id: Promise(
                sale.sale_id, sale.epoch, UUID(bytes=request.order_id), answer.seq, request.user_id, request.quantity
            )
            for request, answer in promised
        }
        async with database.transaction() as session:
            await repository.add_claims(session, list(claims.values()), source="process")
        group.handed_in(len(promised))


def _highest_seq(groups: Iterable[GroupCommit], recovery: Recovery) -> int:
    seen = [
        group.highest_seq
        for group in groups
        if (group.sale.sale_id, group.sale.epoch) == (recovery.sale_id, recovery.from_epoch)
    ]
    return max(seen, default=0)
