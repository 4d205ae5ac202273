"""A pause that ends early when the process is asked to stop."""

import asyncio


async def rest(stopping: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stopping` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
