"""One process's way to a ledger: what waited too long is not sent, and an older ledger is not taken."""

import asyncio

import redis.asyncio as aioredis

from shop.ledger.client import LastOrder, LoadedSale, RedisClock, ReserveRequest
from shop.ledger.receipts import Signer
from shop.pipelined import PipelinedConnection
from shop.seckill.group_commit import GroupCommit
from shop.seckill.registry import Registry
from shop.settings import Settings
from tests.harness import wait_until
from tests.lua.ledgers import command, open_ledger, order_id
from tests.processes import copy_of

HANGS_MS = 400  # longer than anything may wait in the queue below, shorter than a command may take


def a_group(redis: aioredis.Redis, sale: LoadedSale, settings: Settings) -> GroupCommit:
    return GroupCommit(PipelinedConnection(redis), sale, last=LastOrder(b"", 0), clock=RedisClock(), settings=settings)


async def test_a_purchase_that_waited_too_long_in_the_queue_is_not_sent(
    settings: Settings, redis: aioredis.Redis
) -> None:
    """Its buyer has given up: it is refused as not executed, and that is the truth (I9)."""
    ledger = await open_ledger(redis, available=10)
    # The time that is left for the queue is what the deadline leaves when the command has had its own.
    hurried = copy_of(settings, batches_in_flight_max=1, purchase_deadline_seconds=settings.redis_timeout_seconds)
    group = a_group(redis, ledger.sale, hurried)

    await command(redis, "CLIENT", "PAUSE", HANGS_MS, "ALL")
    first = asyncio.ensure_future(group.reserve(ReserveRequest(order_id(1), "ann", 1)))

    async def sent() -> bool:
        return group.queued_seconds == 0.0 and not group.idle

    await wait_until(sent, reason="the first batch is under way")
    second = await group.reserve(ReserveRequest(order_id(2), "bob", 1))

    assert ((await first).word, second.word) == ("RESERVED", "DROPPED")
    assert await ledger.entry(2) is None
    assert await ledger.numbers("available", "seq") == (9, 1)


async def test_a_process_never_goes_back_to_an_older_ledger(settings: Settings, redis: aioredis.Redis) -> None:
    """The directory is a copy and may be old; what was replaced may still be there (design §3)."""
    registry = Registry(Signer(settings.secret))

    for epoch in (1, 3, 2, 3):
        registry.adopt(a_group(redis, LoadedSale(7, epoch, b"salt", 1, "EUR", 60, 1), settings))

    assert registry.epoch_of(7) == 3
    assert [group.sale.epoch for group in registry.replaced] == [1]
