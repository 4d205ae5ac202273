"""How long a connection may take, and the sweep that ends those that take longer: no timer is set for a request."""

import asyncio
from collections.abc import Collection
from functools import partial

from shop.server.connection import Connection, TimeLimits
from shop.server.sending import alone
from shop.stopping import sleep_or_stop

SWEEPS_PER_LIMIT, SWEPT_AT_ONCE = 10, 64


async def cut_late(connections: Collection[Connection], limits: TimeLimits, stopping: asyncio.Event) -> None:
    """Cut what is too slow, and what nobody uses, until `stopping` is set."""
    loop = asyncio.get_running_loop()
    while not stopping.is_set():
        now = loop.time()
        for number, connection in enumerate(tuple(connections)):
            alone(connection, partial(connection.cut_if_late, now, limits))
            if number % SWEPT_AT_ONCE == 0:
                await asyncio.sleep(0)  # Others are served meanwhile.
        await sleep_or_stop(stopping, min(limits) / SWEEPS_PER_LIMIT)
