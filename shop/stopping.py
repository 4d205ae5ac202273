"""Tasks that last as long as the process: supervised until it stops, and surely over when it has."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Self

import structlog

from shop import metrics
from shop.settings import Settings

CANCEL_AGAIN_SECONDS = 0.25
# So long a server may take to close, beyond the time in which it answers what was accepted.
CLOSING_SECONDS = 3

log = structlog.get_logger(__name__)


async def sleep_or_stop(stopping: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stopping` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


class Backoff:
    """The delays after failures: each twice the one before, from the least to the greatest."""

    def __init__(self, min_seconds: float, max_seconds: float) -> None:
        self.max_seconds = max_seconds
        self._min_seconds = self._seconds = min_seconds

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """That of everything which is tried again until the process stops."""
        return cls(settings.retry_delay_min_seconds, settings.retry_delay_max_seconds)

    def reset(self) -> None:
        """Begin again with the least delay."""
        self._seconds = self._min_seconds

    async def wait(self, stopping: asyncio.Event) -> None:
        """Wait for the next delay, or until `stopping` is set."""
        seconds, self._seconds = self._seconds, min(self._seconds * 2, self.max_seconds)
        await sleep_or_stop(stopping, seconds)


async def supervise(name: str, run: Callable[[], Awaitable[None]], stopping: asyncio.Event, backoff: Backoff) -> None:
    """Run something until it returns; after a failure that it does not handle, run it again, with a back-off.

    It counts as failing until it has run for as long as the longest back-off. The first word of its name is what the
    metrics call it.
    """
    health = _Health(name.partition(" ")[0])
    try:
        while not stopping.is_set():
            recovering = asyncio.get_running_loop().call_later(backoff.max_seconds, health.recovered)
            try:
                await run()
                return
            except Exception as error:
                log.error("task_failed", task=name, exc_info=error)
            finally:
                recovering.cancel()
            if not health.failing:
                backoff.reset()
            health.failed()
            await backoff.wait(stopping)
    finally:
        health.recovered()


class _Health:
    """What the metrics say of one supervised task."""

    def __init__(self, loop: str) -> None:
        self.failing = False
        self._failures = metrics.ITEM_FAILURES.labels(loop)
        self._failing = metrics.ITEMS_FAILING.labels(loop)

    def failed(self) -> None:
        """It has failed."""
        self._failures.inc()
        if not self.failing:
            self.failing = True
            self._failing.inc()

    def recovered(self) -> None:
        """It runs again, or is no longer supervised."""
        if self.failing:
            self.failing = False
            self._failing.dec()


async def cancel_and_wait(tasks: "Collection[asyncio.Future[Any]]", *, within: float = 0.0) -> None:
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
