"""The wall clock of a process, which may be set while it runs: that is seen, logged and counted, and nothing else.

Whatever passes in the shop is measured by a monotonic clock, or is Postgres time; the wall clock dates tokens,
signatures and evidence.
"""

import asyncio
import time

import structlog

from shop import metrics
from shop.stopping import sleep_or_stop

CHECK_SECONDS = 1.0
# A time server slews a clock by less than that between two checks.
STEP_SECONDS_MIN = 0.5

log = structlog.get_logger(__name__)


async def watch_clock(stopping: asyncio.Event) -> None:
    """Tell of each step of the wall clock, until `stopping` is set."""
    ahead = time.time() - time.monotonic()
    while not stopping.is_set():
        await sleep_or_stop(stopping, CHECK_SECONDS)
        before, ahead = ahead, time.time() - time.monotonic()
        step = ahead - before
        if abs(step) >= STEP_SECONDS_MIN:
            direction = "forward" if step > 0 else "back"
            metrics.CLOCK_STEPS.labels(direction).inc()
            log.warning("clock_set", direction=direction, seconds=round(abs(step), 3))
