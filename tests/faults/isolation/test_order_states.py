"""An order that cannot be read fails the poll of its own buyer, and of nobody else in its batch."""

import asyncio
import time

import redis.asyncio as aioredis

from shop.database import Database
from shop.order_states.memory import StateMemory
from shop.order_states.polling import Poll, State
from shop.order_states.reading import StateReader
from shop.order_states.recorded import RecordedReader
from shop.order_states.unrecorded import UnrecordedReader
from shop.seckill.polls import Polls
from shop.settings import Settings
from tests.faults.isolation.counted import failures
from tests.faults.isolation.poisoned import unreadable
from tests.notifications.outbox import make_order


async def test_an_order_that_cannot_be_read_fails_no_poll_but_its_own(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    orders = [await make_order(database) for _ in range(5)]
    await unreadable(database, "orders", "reserved_at", id=orders[2].id)
    polls, before = Polls(settings), failures("polls")
    recorded = RecordedReader(database, StateMemory(1_000_000))
    reader = StateReader(recorded, UnrecordedReader(database, redis, polls), polls, seconds_max=10.0)

    found = await asyncio.gather(
        *(reader.ask(Poll(str(order.id), order.user_id, None, time.monotonic())) for order in orders)
    )

    assert [type(each) for each in found] == [State, State, OverflowError, State, State]
    assert failures("polls") == before + 1
