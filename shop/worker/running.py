"""Run the worker: its supervised tasks, and arq beside them.

The controller and the persisters run beside arq, not inside its start-up hook: arq leaves when its Redis restarts, and
recording orders must not wait for it to come back.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog
from arq.connections import ArqRedis
from arq.worker import Worker

from shop.audit.live.auditor import Auditor
from shop.clock import watch_clock
from shop.failure_isolation import SERVER_ERRORS
from shop.file_descriptors import raise_limit
from shop.kept_connections import keep_connections
from shop.ledger_owner import is_own
from shop.orders import repository as orders
from shop.orders.persister import Persister
from shop.recovery.running import follow_recoveries
from shop.recovery.steps import Tools
from shop.redis import CONNECTION_ERRORS, all_scripts, connect
from shop.sales import repository as sales
from shop.sales.controller import Controller
from shop.settings import Settings
from shop.stopping import Backoff, cancel_and_wait, sleep_or_stop, supervise
from shop.worker.context import Context
from shop.worker.jobs import JOB_SECONDS_MAX, function, keep_ticking

QUEUE = "shop:jobs"
OVER = sys.maxsize  # as the epoch of a sale that has no ledger any more

log = structlog.get_logger(__name__)


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, and finish the batches in hand."""
    raise_limit()
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
    kept = settings.database_pool_kept
    pools = {context.persist_database: kept, context.database: kept}
    _supervise(context, "kept_connections", lambda: keep_connections(pools, context.stopping))
    _supervise(context, "controller", controller_of(context).run)
    _supervise(context, "recoveries", lambda: follow_recoveries(_recovery_tools(context), context.stopping))
    _supervise(context, "audits", _auditor(context).run)
    _supervise(context, "persisters", lambda: _follow_sales(context))
    _supervise(context, "clock", lambda: watch_clock(context.stopping))
    _supervise(context, "arq", lambda: _supervise_arq(context))
    try:
        yield context
    finally:
        await context.close()


async def _supervise_arq(context: Context) -> None:
    """Run arq until the worker stops. It leaves when its Redis restarts, and is started again after a back-off."""
    backoff = Backoff.of(context.settings)
    while not context.stopping.is_set():
        worker = _arq_worker(context)
        running = asyncio.ensure_future(worker.async_run())
        ticking = asyncio.ensure_future(keep_ticking(worker.pool, context))  # It ends when the worker stops.
        started = asyncio.get_running_loop().time()
        await asyncio.wait({running, ticking}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, ticking):
            if task.done() and not task.cancelled() and task.exception():
                log.warning("arq_left", reason=repr(task.exception()))
        await cancel_and_wait([ticking])
        await _close_arq(worker, running, context.settings.graceful_stop_seconds / 2)
        if asyncio.get_running_loop().time() - started > backoff.max_seconds:
            backoff.reset()
        await backoff.wait(context.stopping)


async def _close_arq(worker: Worker, running: "asyncio.Future[None]", seconds: float) -> None:
    """Let the jobs in hand finish, then close arq's connections."""
    await cancel_and_wait([running])
    await cancel_and_wait(worker.tasks.values(), within=seconds)
    try:
        await worker.close()
    except (*CONNECTION_ERRORS, asyncio.CancelledError) as error:
        log.info("arq_closed_hard", reason=repr(error))


def _arq_worker(context: Context) -> Worker:
    pool = connect(context.settings.side_redis_url, context.settings).connection_pool
    return Worker(
        functions=[function()],
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


def controller_of(context: Context) -> Controller:
    """The controller of this worker."""
    return Controller(
        context.database,
        context.ledger,
        context.side,
        context.settings,
        context.stopping,
        unfinished=orders.has_unfinished,
    )


def _auditor(context: Context) -> Auditor:
    return Auditor(context.database, context.ledger, context.settings, context.stopping)


def _recovery_tools(context: Context) -> Tools:
    return Tools(
        database=context.database,
        client=context.ledger,
        settings=context.settings,
        persister=lambda sale_id: _persister(context, sale_id),
    )


async def _follow_sales(context: Context) -> None:
    """Run one persister for each sale that has a ledger, open or not."""
    running: dict[int, asyncio.Task[None]] = {}
    while not context.stopping.is_set():
        try:
            if await is_own(context.database, context.ledger):
                _keep_persisters(context, running, await _alive(context))
        except SERVER_ERRORS as error:
            log.warning("sales_not_read", reason=repr(error)[:200])
        await sleep_or_stop(context.stopping, context.settings.controller_interval_seconds)


def _keep_persisters(context: Context, running: dict[int, asyncio.Task[None]], alive: dict[int, int]) -> None:
    """Start a persister for each alive sale that has none; let those of the others ask again, and end."""
    for sale_id in [sale_id for sale_id, task in running.items() if task.done()]:
        del running[sale_id]
    context.epochs.clear()
    context.epochs.update({**dict.fromkeys(running, OVER), **alive})
    for sale_id in alive.keys() - running.keys():
        running[sale_id] = _supervise(context, f"persister {sale_id}", _persister(context, sale_id).run)


async def _alive(context: Context) -> dict[int, int]:
    async with context.database.transaction() as session:
        return {each.sale_id: each.epoch for each in await sales.alive_names(session)}


def _persister(context: Context, sale_id: int) -> Persister:
    return Persister(
        context.persist_database,
        context.streams,
        sale_id,
        context.settings,
        context.stopping,
        epochs=context.epochs,
    )


def _supervise(context: Context, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """A task of the worker that is started again when it fails in a way that it does not handle."""
    supervised = supervise(name, run, context.stopping, Backoff.of(context.settings))
    task = asyncio.get_running_loop().create_task(supervised, name=name)
    context.tasks.add(task)
    task.add_done_callback(context.tasks.discard)
    return task
