"""A sale, an order or a connection that a process of the API cannot work with keeps no other waiting."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

import pytest
import redis.asyncio as aioredis

from shop.app.directory import follow_directory, follow_latches
from shop.database import Database, after_commit
from shop.ledger.receipts import Signer
from shop.orders.models import Order
from shop.orders.order_reader import OrderState
from shop.pipelined import PipelinedConnection
from shop.sales.controller import Controller
from shop.seckill.registry import Registry
from shop.seckill.tally import Tally
from shop.server.sending import Outbox, SendingProtocol
from shop.settings import Settings
from tests.faults.isolation.counted import failing, failures, one_more_fails, scheduled
from tests.faults.isolation.poisoned import poison, unreadable
from tests.harness import Shop, wait_until
from tests.notifications.outbox import make_order
from tests.orders.waiting.streams import order_reader


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(Signer(settings.secret))


async def read_directory_once(shop: Shop, registry: Registry) -> None:
    """Let the registry learn of what is on sale, and stop to follow the directory."""
    first_read, stopping = asyncio.Event(), asyncio.Event()
    following = asyncio.create_task(
        follow_directory(
            registry,
            shop.database,
            shop.redis,
            shop.settings,
            scripts=PipelinedConnection(shop.redis),
            requests=shop.database,
            first_read=first_read,
            stopping=stopping,
        )
    )
    await first_read.wait()
    stopping.set()
    await following


async def test_a_sale_that_cannot_be_read_is_not_sold_and_all_others_are(
    bare_shop: Shop, controller: Controller, registry: Registry
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await controller.step()
    await controller.step()
    await poison(bare_shop, sales[1], "ends_at = '20000-01-01'")

    with one_more_fails("directory"):
        await read_directory_once(bare_shop, registry)

    assert [registry.epoch_of(sale.id) for sale in sales] == [1, 0, 1]


async def test_a_latch_that_cannot_be_polled_keeps_no_other_closed(
    bare_shop: Shop,
    controller: Controller,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await controller.step()
    await controller.step()
    await read_directory_once(bare_shop, registry)
    for group in registry.groups:
        group.latch.close(0)
    first = registry.groups[0]

    async def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(first.latch, "poll", broken)
    stopping = asyncio.Event()
    before = failing("latches")
    polling = asyncio.create_task(follow_latches(registry, [Tally("POST", "/")], bare_shop.settings, stopping))

    async def others_open() -> bool:
        return not any(group.latch.closed for group in registry.groups[1:])

    await wait_until(others_open, reason="the other latches open")
    assert failing("latches") == before + 1
    stopping.set()
    await polling
    assert len(registry.groups) == len(sales)


async def test_an_order_that_cannot_be_read_ends_no_stream_but_its_own(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    orders: list[Order] = [await make_order(database) for _ in range(3)]
    await unreadable(database, "orders", "reserved_at", id=orders[1].id)
    reader, before = order_reader(database, redis, settings), failures("streams")

    found = await asyncio.gather(*(reader.read(order.id) for order in orders), return_exceptions=True)

    found_ids = [json.loads(each.body)["id"] if isinstance(each, OrderState) else None for each in found]
    assert found_ids == [str(orders[0].id), None, str(orders[2].id)]
    assert isinstance(found[1], OverflowError)
    assert failures("streams") == before + 1


class Connection(SendingProtocol):
    """One that notes what happens to it."""

    def __init__(self, outbox: Outbox, flush: Callable[[], None]) -> None:
        super().__init__(asyncio.get_running_loop(), outbox)
        self._act = flush

    def flush(self) -> None:
        self._act()


class Transport(asyncio.Transport):
    """What a connection is ended with."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


async def test_a_connection_that_cannot_send_is_ended_and_all_others_send() -> None:
    sent, outbox, before = [], Outbox(), failures("connections")

    def broken() -> None:
        raise ZeroDivisionError

    connections = [Connection(outbox, act) for act in (lambda: sent.append(1), broken, lambda: sent.append(3))]
    transports = [Transport() for _ in connections]
    for connection, transport in zip(connections, transports, strict=True):
        connection.transport = transport
        connection.write(b"an answer")

    async def sent_all() -> bool:
        return len(sent) == 2

    await wait_until(sent_all, reason="the others have sent")
    assert [transport.aborted for transport in transports] == [False, True, False]
    assert failures("connections") == before + 1


async def test_what_fails_after_a_commit_keeps_nothing_else_from_being_done(database: Database) -> None:
    done, before = [], failures("after_commit")

    async def broken() -> None:
        raise ZeroDivisionError

    async def work() -> None:
        done.append(UUID(int=1))

    async with database.transaction() as session:
        after_commit(session, broken)
        after_commit(session, work)

    assert (len(done), failures("after_commit")) == (1, before + 1)
