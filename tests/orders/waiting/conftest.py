"""A second API of the running shop, which learns of changes only by their announcements: it hardly ever polls."""

from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import retired_sales
from tests.harness import Shop, running_shop
from tests.processes import copy_of

__all__ = ["retired_sales"]

NEVER_SECONDS = 3_600.0
STREAMS_PER_ORDER = 2


@pytest.fixture(scope="module")
async def listening(live_shop: Shop) -> AsyncIterator[Shop]:
    """The running shop, reached through an API that only listens."""
    settings = copy_of(
        live_shop.settings,
        order_poll_seconds=NEVER_SECONDS,
        sse_heartbeat_seconds=0.2,
        listeners_per_order_max=STREAMS_PER_ORDER,
    )
    async with running_shop(settings, worker=False) as shop:
        yield shop
