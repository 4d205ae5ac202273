"""What the worker does again and again, as jobs of arq. Each is a hint: a lost one is made good by the next.

A clock that nobody can set tells when: arq's own schedule waits for the wall clock, and when that is set back by an
hour no hold would expire for an hour. A run that is not over when the next one is due is not doubled, and none is tried
again by arq.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import structlog
from arq.connections import ArqRedis
from arq.worker import Function, func

from shop.errors import ProviderUnavailable
from shop.idempotency.service import forget_old
from shop.notifications.collecting.collector import collect
from shop.notifications.delivering.delivery import sweep_deliveries, watch_deliveries
from shop.orders.expiry import expire_due
from shop.orders.release import sweep
from shop.payments.matching import match_payments
from shop.payments.provider import ask_again, end_needless, reconcile, send_refunds
from shop.payments.totals.counting import count_money
from shop.stopping import sleep_or_stop
from shop.worker.context import Context

JOB_SECONDS_MAX = 30
# What nobody has begun so long after it was due is forgotten: there are newer ones.
TICK_EXPIRES = timedelta(seconds=JOB_SECONDS_MAX)
# A job is due when its score is below the reader's wall clock, which may be set to any time: this one is always below.
# Not 0, which arq takes for a job that is over.
LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)

RUN_DUE = "run_due"
APART_SECONDS = 0.03

log = structlog.get_logger(__name__)

Job = Callable[[Context], Coroutine[Any, Any, None]]


class Tick(NamedTuple):
    """A job, and how often it is begun."""

    name: str
    job: Job
    every_seconds: float


def ticks() -> list[Tick]:
    """Every job of the worker."""
    return [
        Tick("expire", _expire, 1.0),
        Tick("sweep", _sweep, 5.0),
        Tick("forget_keys", _forget_keys, 60.0),
        Tick("match_payments", _match_payments, 1.0),
        Tick("refund", _refund, 1.0),
        Tick("reconcile", _reconcile, 2.0),
        Tick("tidy_intents", _tidy_intents, 2.0),
        Tick("count_money", _count_money, 1.0),
        Tick("notify", _notify, 1.0),
        Tick("watch_deliveries", _watch_deliveries, 5.0),
        Tick("sweep_deliveries", _sweep_deliveries, 300.0),
    ]


def function() -> Function:
    """What arq runs: `run_due`."""
    return func(run_due, name=RUN_DUE, timeout=JOB_SECONDS_MAX, max_tries=1, keep_result=0)


async def keep_ticking(queue: ArqRedis, context: Context) -> None:
    """Enqueue each job whenever it is due, until the worker stops. Raises what says that Redis is away.

    The first run of each comes at once. What was missed, by a process that stood still, is not made up for. Jobs that
    are due together are one job of arq: it goes to Redis ten times for each, whatever the job does.
    """
    clock = asyncio.get_running_loop().time
    due = {tick: clock() for tick in ticks()}
    while not context.stopping.is_set():
        now = clock()
        begun = [tick for tick, at in due.items() if at <= now]
        names = [tick.name for tick in begun if tick.name not in context.running]
        if names:
            await queue.enqueue_job(RUN_DUE, names, _defer_until=LONG_AGO, _expires=TICK_EXPIRES)
        due.update({tick: max(due[tick] + tick.every_seconds, now) for tick in begun})
        await sleep_or_stop(context.stopping, max(min(due.values()) - clock(), 0))


async def run_due(ctx: dict[str, Any], names: Sequence[str]) -> None:
    """Run these jobs side by side; none stops another. A name that is not known is another release's.

    One begins a moment after the other: all at once would open a connection to Postgres for each.
    """
    context: Context = ctx["shop"]
    async with asyncio.TaskGroup() as group:
        for tick in ticks():
            if tick.name in names:
                group.create_task(_run(tick, context))
                await asyncio.sleep(APART_SECONDS)


async def _run(tick: Tick, context: Context) -> None:
    if tick.name in context.running:
        return  # One more run beside it would only share its work.
    context.running.add(tick.name)
    try:
        await context.isolation("jobs").attempt(tick.name, partial(tick.job, context), None)
    finally:
        context.running.remove(tick.name)


async def _expire(context: Context) -> None:
    await expire_due(context.database, context.ledger, context.settings, context.isolation("expiry"))


async def _sweep(context: Context) -> None:
    await sweep(context.database, context.ledger, context.settings, context.isolation("release"))


async def _forget_keys(context: Context) -> None:
    await forget_old(context.database, context.settings)


async def _match_payments(context: Context) -> None:
    await match_payments(context.database, context.ledger, context.settings, context.isolation("matching"))


async def _refund(context: Context) -> None:
    await send_refunds(context.database, context.gateway, context.settings, context.isolation("refunds"))


async def _reconcile(context: Context) -> None:
    try:
        await reconcile(context.database, context.gateway, context.settings)
    except ProviderUnavailable as error:
        log.warning("provider_unavailable", operation="events", reason=str(error))


async def _tidy_intents(context: Context) -> None:
    isolation = context.isolation("intents")
    await end_needless(context.database, context.gateway, context.settings, isolation)
    await ask_again(context.database, context.gateway, context.settings, isolation)


async def _count_money(context: Context) -> None:
    await count_money(context.database)


async def _notify(context: Context) -> None:
    """Collect what happened, and begin to deliver what is due; nobody waits here for those who are told."""
    await collect(context.database, context.settings, context.isolation("notifications"))
    await context.deliverer.start()


async def _watch_deliveries(context: Context) -> None:
    await watch_deliveries(context.database, context.settings)


async def _sweep_deliveries(context: Context) -> None:
    await sweep_deliveries(context.database, context.settings)
