"""The worker process: the controller, one persister for each sale that has a ledger, and arq for what happens later.

The controller and the persisters run beside arq, not inside its start-up hook: arq leaves when its Redis restarts, and
recording orders must not wait for it to come back. Each job is only a hint: a lost one is made good by the next run, a
repeated one does nothing.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis.asyncio as aioredis
import structlog
from arq import cron
from arq.connections import ArqRedis
from arq.worker import Worker
from sqlalchemy.exc import DBAPIError

from shop.database import UNAVAILABLE_ERRORS, Database
from shop.errors import ProviderUnavailable
from shop.idempotency.service import forget_old
from shop.order_changes import Announcer
from shop.orders import repository as orders
from shop.orders.announcing import ANNOUNCER
from shop.orders.expiry import expire_due
from shop.orders.persister import APPLICATION_NAME, Persister
from shop.orders.release import sweep
from shop.payments.gateway import Gateway, HttpGateway
from shop.payments.provider import ask_again, end_needless, reconcile, send_refunds
from shop.payments.settling import settle
from shop.redis import CONNECTION_ERRORS, all_scripts, connect
from shop.sales import repository as sales
from shop.sales.controller import Controller
from shop.settings import Settings
from shop.stopping import end_tasks, keep_running, rest

QUEUE = "shop:jobs"
EVERY_SECOND = set(range(60))
EVERY_TWO_SECONDS = set(range(0, 60, 2))
EVERY_FIVE_SECONDS = set(range(0, 60, 5))
JOB_SECONDS_MAX = 30
WORKER_POOL_MAX = 20

log = structlog.get_logger(__name__)


@dataclass
class Context:
    """What the worker's tasks share."""

    settings: Settings
    database: Database
    persist_database: Database
    ledger: aioredis.Redis
    streams: aioredis.Redis
    side: aioredis.Redis
    gateway: Gateway
    announcer: Announcer
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    expiring: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def connect(cls, settings: Settings) -> "Context":
        """The clients of one worker. Nothing is connected yet."""
        ledger = connect(settings.redis_url, settings)
        streams = connect(settings.redis_url, settings, connections_max=settings.persist_sales_max + 1)
        same = settings.side_redis_url == settings.redis_url
        side = ledger if same else connect(settings.side_redis_url, settings)
        announcer = Announcer(side, settings)
        info = {ANNOUNCER: announcer}
        return cls(
            settings=settings,
            database=Database(settings, application_name="shop-worker", pool_max=WORKER_POOL_MAX, info=info),
            persist_database=Database(
                settings,
                application_name=APPLICATION_NAME,
                pool_max=WORKER_POOL_MAX,
                statement_seconds=settings.persist_timeout_seconds,
                info=info,
            ),
            ledger=ledger,
            streams=streams,
            gateway=HttpGateway(settings),
            side=side,
            announcer=announcer,
        )

    async def close(self) -> None:
        """Let the batches in hand finish, then close every connection."""
        self.stopping.set()
        await end_tasks(self.tasks, within=self.settings.graceful_stop_seconds)
        await self.announcer.close()
        await self.database.close()
        await self.persist_database.close()
        await self.gateway.close()
        for client in {self.ledger, self.streams, self.side}:
            await client.aclose(close_connection_pool=True)


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, and finish the batches in hand."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running_worker(settings):
        await stopped.wait()


@asynccontextmanager
async def running_worker(settings: Settings) -> AsyncIterator[Context]:
    """A worker that works while the block lasts. Raises ScriptMissing."""
    all_scripts()
    context = Context.connect(settings)
    _supervise(context, "controller", _controller(context).run)
    _supervise(context, "persisters", lambda: _follow_sales(context))
    _supervise(context, "arq", lambda: _keep_arq_running(context))
    try:
        yield context
    finally:
        await context.close()


async def _keep_arq_running(context: Context) -> None:
    """Run arq until the worker stops. It leaves when its Redis restarts, and is started again after a back-off."""
    settings, delay = context.settings, context.settings.retry_delay_min_seconds
    while not context.stopping.is_set():
        worker = _arq_worker(context)
        running = asyncio.ensure_future(worker.async_run())
        stopping = asyncio.ensure_future(context.stopping.wait())
        started = asyncio.get_running_loop().time()
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done() and not running.cancelled() and running.exception():
            log.warning("arq_left", reason=repr(running.exception()))
        stopping.cancel()
        await _close_arq(worker, running, settings.graceful_stop_seconds / 2)
        if asyncio.get_running_loop().time() - started > settings.retry_delay_max_seconds:
            delay = settings.retry_delay_min_seconds
        await rest(context.stopping, delay)
        delay = min(delay * 2, settings.retry_delay_max_seconds)


async def _close_arq(worker: Worker, running: "asyncio.Future[None]", seconds: float) -> None:
    """Let the jobs in hand finish, then close arq's connections."""
    await end_tasks([running])
    await end_tasks(worker.tasks.values(), within=seconds)
    try:
        await worker.close()
    except (*CONNECTION_ERRORS, asyncio.CancelledError) as error:
        log.info("arq_closed_hard", reason=repr(error))


def _arq_worker(context: Context) -> Worker:
    pool = connect(context.settings.side_redis_url, context.settings).connection_pool
    return Worker(
        cron_jobs=[
            cron(_expire, name="expire", second=EVERY_SECOND, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_sweep, name="sweep", second=EVERY_FIVE_SECONDS, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_forget_keys, name="forget_keys", second=30, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_settle, name="settle", second=EVERY_SECOND, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_refund, name="refund", second=EVERY_SECOND, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_reconcile, name="reconcile", second=EVERY_TWO_SECONDS, unique=True, timeout=JOB_SECONDS_MAX),
            cron(_tidy_intents, name="tidy_intents", second=EVERY_TWO_SECONDS, unique=True, timeout=JOB_SECONDS_MAX),
        ],
        redis_pool=ArqRedis(connection_pool=pool, job_serializer=msgspec.json.encode, default_queue_name=QUEUE),
        queue_name=QUEUE,
        ctx={"shop": context},
        handle_signals=False,
        keep_result=0,
        job_timeout=JOB_SECONDS_MAX,
        max_tries=1,
        log_results=False,
        job_serializer=msgspec.json.encode,
        job_deserializer=msgspec.json.decode,
    )


async def _expire(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    if context.expiring.locked():
        return  # a run that takes longer than a second; one more beside it would only share its work
    async with context.expiring:
        await expire_due(context.database, context.ledger, context.settings)


async def _sweep(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    await sweep(context.database, context.ledger, context.settings)


async def _forget_keys(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    await forget_old(context.database, context.settings)


async def _settle(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    await settle(context.database, context.ledger, context.settings)


async def _refund(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    await send_refunds(context.database, context.gateway, context.settings)


async def _reconcile(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    try:
        await reconcile(context.database, context.gateway, context.settings)
    except ProviderUnavailable as error:
        log.warning("provider_unavailable", operation="events", reason=str(error))


async def _tidy_intents(ctx: dict[str, Any]) -> None:
    context: Context = ctx["shop"]
    await end_needless(context.database, context.gateway, context.settings)
    await ask_again(context.database, context.gateway, context.settings)


def _controller(context: Context) -> Controller:
    return Controller(
        context.database,
        context.ledger,
        context.side,
        context.settings,
        context.stopping,
        unfinished=orders.has_unfinished,
    )


async def _follow_sales(context: Context) -> None:
    """Run one persister for each sale that has a ledger, open or not."""
    running: dict[int, asyncio.Task[None]] = {}
    while not context.stopping.is_set():
        try:
            async with context.database.transaction() as session:
                alive = {each.sale.id for each in await sales.alive(session)}
            for sale_id in alive - {key for key, task in running.items() if not task.done()}:
                running[sale_id] = _supervise(context, f"persister {sale_id}", _persister(context, sale_id).run)
        except (*UNAVAILABLE_ERRORS, DBAPIError) as error:
            log.warning("sales_not_read", reason=repr(error)[:200])
        await rest(context.stopping, context.settings.controller_interval_seconds)


def _persister(context: Context, sale_id: int) -> Persister:
    return Persister(context.persist_database, context.streams, sale_id, context.settings, context.stopping)


def _supervise(context: Context, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """A task of the worker that is started again when it fails in a way that it does not handle."""
    settings = context.settings
    supervised = keep_running(
        name,
        run,
        context.stopping,
        delay_min_seconds=settings.retry_delay_min_seconds,
        delay_max_seconds=settings.retry_delay_max_seconds,
    )
    task = asyncio.get_running_loop().create_task(supervised, name=name)
    context.tasks.add(task)
    task.add_done_callback(context.tasks.discard)
    return task
