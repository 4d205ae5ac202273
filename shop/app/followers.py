"""The background tasks of the API: what a process must learn and tell all the time, started and stopped with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from shop.app.directory import follow_directory, follow_latches
from shop.app.heartbeat import send_heartbeats
from shop.app.state import AppState
from shop.clock import watch_clock
from shop.kept_connections import keep_connections
from shop.orders.order_stream import poll_orders
from shop.pool_sizes import FOLLOWERS_POOL_MAX
from shop.products.hot import merge_hot_products
from shop.server.connections import Connections
from shop.stopping import Backoff, cancel_and_wait, supervise
from shop.users.revocation_feed import follow_revocations

FIRST_READ_SECONDS_MAX = 5.0
FOLLOWERS_END_SECONDS = 0.5


@asynccontextmanager
async def following(state: AppState, connections: Connections) -> AsyncIterator[None]:
    """Follow what the process must know while the block lasts; it begins when that was read for the first time.

    A process that does not know what is on sale would refuse the crowd that its predecessor served, and one that does
    not know what was revoked would serve those whom its predecessor refused. While a server is away, it begins after
    `FIRST_READ_SECONDS_MAX` all the same.
    """
    stopping, listed, read = asyncio.Event(), asyncio.Event(), asyncio.Event()
    followers = _followers(state, connections, listed=listed, read=read, stopping=stopping)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(supervise(name, run, stopping, Backoff.of(state.settings)))
            for name, run in followers.items()
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ_SECONDS_MAX):
                await listed.wait()
                await read.wait()
        yield
        # They are asked to stop first; one that waits for a server that hangs is then cancelled, until it has ended.
        stopping.set()
        await cancel_and_wait(tasks, within=FOLLOWERS_END_SECONDS)


def _followers(
    state: AppState, connections: Connections, *, listed: asyncio.Event, read: asyncio.Event, stopping: asyncio.Event
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Each by its name in the metrics and the log."""
    settings, database, registry = state.settings, state.followers_database, state.registry
    kept = {database: FOLLOWERS_POOL_MAX, state.database: settings.database_pool_kept}
    return {
        "directory": lambda: follow_directory(
            registry,
            database,
            state.ledger,
            settings,
            scripts=state.scripts,
            requests=state.database,
            first_read=listed,
            stopping=stopping,
        ),
        "heartbeat": lambda: send_heartbeats(registry, database, settings, stopping),
        "latches": lambda: follow_latches(registry, state.tallies, settings, stopping),
        "revocations": lambda: follow_revocations(database, state.revocations, settings, read=read, stopping=stopping),
        "clock": lambda: watch_clock(stopping),
        "connections": lambda: connections.keep(stopping),
        "kept_connections": lambda: keep_connections(kept, stopping),
        "hot_products": lambda: merge_hot_products(state.hot, stopping),
        "changes": lambda: state.changes.follow(stopping),
        "changed_orders": lambda: poll_orders(database, state.changes, settings, stopping),
    }
