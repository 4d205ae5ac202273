"""What the worker does later, as cron jobs of arq. Each is a hint: a lost one is made good by the next run.

A run that is not over when the next one is due is not doubled, and none is tried again by arq.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from arq import cron
from arq.cron import CronJob

from shop.errors import ProviderUnavailable
from shop.idempotency.service import forget_old
from shop.notifications.collecting.collector import collect
from shop.notifications.delivering.delivery import sweep_deliveries, watch_deliveries
from shop.orders.expiry import expire_due
from shop.orders.release import sweep
from shop.payments.provider import ask_again, end_needless, reconcile, send_refunds
from shop.payments.settling import settle
from shop.worker.context import Context

EVERY_SECOND = set(range(60))
EVERY_TWO_SECONDS = set(range(0, 60, 2))
EVERY_FIVE_SECONDS = set(range(0, 60, 5))
EVERY_FIVE_MINUTES = set(range(0, 60, 5))
JOB_SECONDS_MAX = 30

log = structlog.get_logger(__name__)

Job = Callable[[Context], Coroutine[Any, Any, None]]


def cron_jobs() -> list[CronJob]:
    """Every job of the worker, by name and when it runs; `ctx["shop"]` is the worker's context."""
    return [
        _cron("expire", _expire, second=EVERY_SECOND),
        _cron("sweep", _sweep, second=EVERY_FIVE_SECONDS),
        _cron("forget_keys", _forget_keys, second={30}),
        _cron("settle", _settle, second=EVERY_SECOND),
        _cron("refund", _refund, second=EVERY_SECOND),
        _cron("reconcile", _reconcile, second=EVERY_TWO_SECONDS),
        _cron("tidy_intents", _tidy_intents, second=EVERY_TWO_SECONDS),
        _cron("notify", _notify, second=EVERY_SECOND),
        _cron("watch_deliveries", _watch_deliveries, second=EVERY_FIVE_SECONDS),
        _cron("sweep_deliveries", _sweep_deliveries, second={0}, minute=EVERY_FIVE_MINUTES),
    ]


def _cron(name: str, job: Job, *, second: set[int], minute: set[int] | None = None) -> CronJob:
    async def run(ctx: dict[str, Any]) -> None:
        context: Context = ctx["shop"]
        if name in context.running:
            return  # One more run beside it would only share its work.
        context.running.add(name)
        try:
            await job(context)
        finally:
            context.running.remove(name)

    return cron(run, name=name, second=second, minute=minute, unique=True, timeout=JOB_SECONDS_MAX)


async def _expire(context: Context) -> None:
    await expire_due(context.database, context.ledger, context.settings)


async def _sweep(context: Context) -> None:
    await sweep(context.database, context.ledger, context.settings)


async def _forget_keys(context: Context) -> None:
    await forget_old(context.database, context.settings)


async def _settle(context: Context) -> None:
    await settle(context.database, context.ledger, context.settings)


async def _refund(context: Context) -> None:
    await send_refunds(context.database, context.gateway, context.settings)


async def _reconcile(context: Context) -> None:
    try:
        await reconcile(context.database, context.gateway, context.settings)
    except ProviderUnavailable as error:
        log.warning("provider_unavailable", operation="events", reason=str(error))


async def _tidy_intents(context: Context) -> None:
    await end_needless(context.database, context.gateway, context.settings)
    await ask_again(context.database, context.gateway, context.settings)


async def _notify(context: Context) -> None:
    """Collect what happened, and begin to deliver what is due; nobody waits here for those who are told."""
    await collect(context.database, context.settings)
    await context.deliverer.start()


async def _watch_deliveries(context: Context) -> None:
    await watch_deliveries(context.database, context.settings)


async def _sweep_deliveries(context: Context) -> None:
    await sweep_deliveries(context.database, context.settings)
