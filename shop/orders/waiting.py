"""Whoever needs an order's row waits a little for it: what is accepted is recorded in a moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shop.errors import NotRecordedYet
from shop.settings import Settings

POLL_SECONDS = 0.05

Result = TypeVar("Result")


async def wait_recorded(attempt: Callable[[], Awaitable[Result | None]], settings: Settings) -> Result:
    """What `attempt` returns once it finds the row; it returns None until then, and is called again.

    Raises NotRecordedYet after `not_recorded_wait_seconds`, and whatever `attempt` raises.
    """
    deadline = asyncio.get_running_loop().time() + settings.not_recorded_wait_seconds
    while (found := await attempt()) is None:
        if asyncio.get_running_loop().time() >= deadline:
            raise NotRecordedYet
        await asyncio.sleep(POLL_SECONDS)
    return found
