"""A crowd that opens event streams at once has them by turns, and one read answers all who ask at the same time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from loadtests.client.event_streams import EventStreams, Opened
from loadtests.client.http import Address
from shop.file_descriptors import raise_limit
from shop.ledger import client as ledger
from shop.ledger.client import LastOrder, RedisClock, ReserveRequest
from shop.ledger.order_ids import keyed_order_id
from shop.order_states.followed import FollowedOrders
from shop.sales.loading import loaded_sale
from shop.sales.models import Sale
from tests.api.answers import problem_of
from tests.api.orders import recording_held_up
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.orders.waiting.streams import follow_request, following, recorded_order
from tests.processes import copy_of

CROWD = 1_000
# Of those that come at once, a read takes 64; a client that is slow in this process may spread them a little.
READS_MAX = CROWD // 16
PATIENCE_SECONDS = 30.0
RESERVED_TOGETHER = 250
# Eight reads one after another, two at a time, would take twice as long.
HANGS_SECONDS, REFUSED_SECONDS_MAX = 2.0, 8.0


async def orders_of(shop: Shop, sale: Sale, count: int) -> dict[UUID, str]:
    """So many orders of a sale, made in its ledger, and their buyers."""
    loaded, clock = loaded_sale(await shop.row(sale)), RedisClock()
    buyers = [new_user_id() for _ in range(count)]
    ids = [keyed_order_id(sale.id, loaded.salt, buyer, "a key") for buyer in buyers]
    requests = [ReserveRequest(order_id, buyer, 1) for order_id, buyer in zip(ids, buyers, strict=True)]
    for start in range(0, count, RESERVED_TOGETHER):
        together = requests[start : start + RESERVED_TOGETHER]
        answers = await ledger.reserve(shop.redis, loaded, together, clock=clock, last=LastOrder(b"", 0), timeout=10.0)
        assert {answer.word for answer in answers} == {"RESERVED"}
    return {UUID(bytes=order_id): buyer for order_id, buyer in zip(ids, buyers, strict=True)}


async def opened(shop: Shop, orders: dict[UUID, str]) -> Opened:
    """What becomes of a stream of each of these orders, all opened at once by a client of one address."""
    address = Address.of(shop.base_url)
    requests = [
        address.request("GET", f"/v1/orders/{order_id}/events", headers=shop.headers(buyer))
        for order_id, buyer in orders.items()
    ]
    streams = EventStreams(address, requests)
    try:
        return await asyncio.to_thread(streams.open, within_seconds=0, patience_seconds=PATIENCE_SECONDS)
    finally:
        streams.close()


async def test_a_thousand_streams_at_once_are_all_opened_and_read_together(
    live_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their orders are recorded, or nowhere but in the ledger yet."""
    raise_limit()
    recorded, fresh = [await live_shop.open_sale(units=CROWD) for _ in range(2)]
    orders, reads = await orders_of(live_shop, recorded, CROWD // 2), []
    await live_shop.drained(recorded)
    read = FollowedOrders.read

    async def counted(self: FollowedOrders, order_ids: set[UUID]) -> object:
        reads.append(len(order_ids))
        return await read(self, order_ids)

    monkeypatch.setattr(FollowedOrders, "read", counted)
    async with (
        running_shop(live_shop.settings, worker=False) as shop,
        recording_held_up(live_shop, fresh),
    ):
        orders |= await orders_of(live_shop, fresh, CROWD // 2)
        found = await opened(shop, orders)
        first_reads = tuple(reads)

    assert (len(found.first_event_seconds), found.refused, found.lost) == (CROWD, Counter(), 0)
    assert (sum(first_reads), len(first_reads) <= READS_MAX) == (CROWD, True), first_reads


@asynccontextmanager
async def orders_locked(shop: Shop) -> AsyncIterator[None]:
    """Nobody reads an order while the block lasts."""
    async with shop.database.transaction() as session:
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await session.execute(text("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"))
        yield


async def followed(shop: Shop, order_id: str, user_id: str) -> bool:
    """Whether a stream is opened."""
    async with following(shop, order_id, user_id) as stream:
        return stream.answer.status_code == 200


async def test_a_stream_that_is_not_read_in_time_is_refused(live_shop: Shop) -> None:
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, sse_open_seconds_max=0.2)
    async with running_shop(settings, worker=False) as shop:
        async with orders_locked(live_shop):
            problem_of(await follow_request(shop, order_id, user), 503, "overloaded")

        await wait_until(lambda: followed(shop, order_id, user), reason="it is opened")


async def test_all_who_wait_for_a_postgres_that_hangs_are_told_at_once(live_shop: Shop) -> None:
    """Not one read after another, each as long as it may take; and the next ones are served."""
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, sse_read_seconds_max=HANGS_SECONDS)
    async with running_shop(settings, worker=False) as shop:
        began = asyncio.get_running_loop().time()
        async with orders_locked(live_shop):
            found = await opened(shop, {uuid4(): new_user_id() for _ in range(CROWD)})
        seconds = asyncio.get_running_loop().time() - began

        await wait_until(lambda: followed(shop, order_id, user), reason="it is opened")
    assert (found.refused, found.lost) == (Counter({"503": CROWD}), 0)
    assert seconds < REFUSED_SECONDS_MAX
