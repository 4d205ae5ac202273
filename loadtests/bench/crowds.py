"""Crowds that only read, for as long as a block lasts: readers of a page, pollers of orders, followers of orders."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from loadtests.bench.messages import Round
from loadtests.bench.requests import PolledOrders, stream_requests
from loadtests.bench.rounds import Wish, plan_of
from loadtests.bench.sales import fill, open_sales, order_ids, row, until_drained
from loadtests.bench.settings import HOST
from loadtests.bench.testbed import NotMeasured, Testbed
from loadtests.client.event_streams import EventStreams
from loadtests.client.http import Address

READERS, STREAMS = 500, 2_000
POLLED_ORDERS = 5_000
# More than any machine answers: what is sent is the same again and again.
READS_PER_SECOND_MAX = 200_000
# A crowd reads before the block begins, and for so long after its time at least.
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 0.5
STREAMS_OPEN_SECONDS, STREAMS_PATIENCE_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class Ordered:
    """A sale with recorded orders: who bought under which name, and when their tokens are issued."""

    sale_id: int
    salt: bytes
    buyers: str
    order_ids: list[UUID]
    issued_at: int

    @classmethod
    async def some(cls, testbed: Testbed, *, units: int, orders: int) -> "Ordered":
        """So many orders, recorded; the worker is stopped then. Raises NotMeasured."""
        (sale_id,) = await open_sales(testbed, units=units)
        testbed.start_worker()
        issued_at, buyers = int(time.time()), await fill(testbed, sale_id, orders)
        await until_drained(testbed, [sale_id])
        await testbed.stop_worker()
        ids = await order_ids(testbed, sale_id, buyers, STREAMS)
        return cls(sale_id, (await row(testbed, sale_id)).salt, buyers, ids, issued_at)

    @property
    def polled(self) -> PolledOrders:
        """Those that the pollers ask for."""
        return PolledOrders(sale_id=self.sale_id, salt=self.salt, orders=POLLED_ORDERS, issued_at=self.issued_at)


def wishes(ordered: Ordered, *, sale_id: int, seconds: float) -> Mapping[str, Wish]:
    """What each crowd that asks again and again asks for, for so long."""
    lasting = BEFORE_SECONDS + seconds + AFTER_SECONDS
    count = int(READS_PER_SECOND_MAX * lasting)
    asking = Wish("shop", sale_id, lasting, READERS, count=count)
    return {
        "reads": replace(asking, page=f"/v1/seckill/sales/{sale_id}"),
        "polls": replace(asking, shoppers=ordered.buyers, polled=ordered.polled),
    }


@asynccontextmanager
async def asking(testbed: Testbed, wish: Wish) -> AsyncIterator[list[Round]]:
    """A crowd that asks as fast as it is answered; what it came to is in the list after the block.

    Raises NotMeasured when it ended early.
    """
    found: list[Round] = []
    task = asyncio.create_task(testbed.crowd.play(plan_of(testbed, wish)))
    await asyncio.sleep(BEFORE_SECONDS)
    try:
        yield found
    finally:
        found.append(await task)
    if found[0].exhausted:
        raise NotMeasured(f"the readers had no more to read: {found[0].statuses}")


@asynccontextmanager
async def following(testbed: Testbed, ordered: Ordered) -> AsyncIterator[None]:
    """A crowd of event streams that are open. Raises NotMeasured when one is not."""
    shoppers = testbed.shoppers(STREAMS, name=ordered.buyers, issued_at=ordered.issued_at)
    port = testbed.ports["shop"]
    requests = stream_requests(shoppers, host=HOST, port=port, order_ids=ordered.order_ids)
    streams = EventStreams(Address(HOST, port), requests)
    try:
        opened = await asyncio.to_thread(
            streams.open, within_seconds=STREAMS_OPEN_SECONDS, patience_seconds=STREAMS_PATIENCE_SECONDS
        )
        if len(opened.first_event_seconds) < STREAMS:
            raise NotMeasured(f"not all streams were opened: {dict(opened.refused)}, {opened.lost} lost")
        yield
    finally:
        streams.close()
