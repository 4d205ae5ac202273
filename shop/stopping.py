"""Tasks that last as long as the process: kept running until it stops, and surely over when it has."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import structlog

CANCEL_AGAIN_SECONDS = 0.25

log = structlog.get_logger(__name__)


async def rest(stopping: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stopping` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


async def keep_running(
    name: str,
    run: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    *,
    delay_min_seconds: float,
    delay_max_seconds: float,
) -> None:
    """Run something until it returns; after a failure that it does not handle, run it again, with a back-off."""
    delay = delay_min_seconds
    while not stopping.is_set():
        try:
            await run()
            return
        except Exception as error:
            log.error("task_failed", task=name, exc_info=error)
        await rest(stopping, delay)
        delay = min(delay * 2, delay_max_seconds)


async def end_tasks(tasks: "Collection[asyncio.Future[Any]]", *, within: float = 0.0) -> None:
    """Wait so many seconds for tasks to end by themselves, then cancel them until they have.

    Once is not enough: `asyncio.wait_for`, which redis-py waits with, can swallow a cancellation on Python 3.11.
    """
    pending = set(tasks)
    if pending and within:
        _, pending = await asyncio.wait(pending, timeout=within)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
