"""Ending things: a pause that a stop cuts short, and tasks that must be over before we go on."""

import asyncio
from collections.abc import Collection
from typing import Any

CANCEL_AGAIN_SECONDS = 0.25


async def rest(stopping: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stopping` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


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
