"""Many polls are one read: of versions where the state is known, of the whole where it is not, each poll its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
import redis.asyncio as aioredis

from shop.database import Database
from shop.errors import NotReady, OrderNotFound
from shop.listening_sockets import free_port
from shop.order_states.drawing import Drawn
from shop.order_states.memory import ENTRY_BYTES, StateMemory
from shop.order_states.polling import Found, Poll, State
from shop.order_states.reading import POLLS_PER_READ_MAX, StateReader
from shop.order_states.recorded import RecordedReader
from shop.order_states.repository import STATES, VERSIONS
from shop.order_states.unrecorded import UnrecordedReader
from shop.orders.models import Order, OrderStatus
from shop.redis import connect
from shop.seckill.polls import COST_SECONDS_FIRST, Polls
from shop.settings import Settings
from tests.api.orders import recording_held_up
from tests.harness import Shop, new_user_id
from tests.notifications.outbox import make_order, move_order

MEMORY_BYTES = 1_000_000


class Counted(Database):
    """A database that notes which statements it was asked."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, application_name="shop-tests")
        self.statements: list[str] = []

    async def fetch(self, query: str, *arguments: object) -> "list[asyncpg.Record]":
        self.statements.append(query)
        return await super().fetch(query, *arguments)


@pytest.fixture
async def counted(database: Database, settings: Settings) -> AsyncIterator[Counted]:
    """The clean database, which counts what its readers ask."""
    found = Counted(settings)
    yield found
    await found.close()


def reader_of(
    database: Database, client: aioredis.Redis, settings: Settings, *, polls: Polls | None = None
) -> StateReader:
    polls = polls or Polls(settings)
    recorded = RecordedReader(database, StateMemory(MEMORY_BYTES))
    return StateReader(recorded, UnrecordedReader(database, client, polls), polls, seconds_max=10.0)


async def told(reader: StateReader, *polls: Poll) -> list[Found]:
    """What each of these polls is told, who ask at once."""
    found = await asyncio.gather(*(reader.ask(each) for each in polls))
    return [await each if isinstance(each, asyncio.Future) else each for each in found]


def poll_of(order: Order, *, known: str | None = None, user_id: str | None = None) -> Poll:
    return Poll(str(order.id), user_id or order.user_id, known, time.monotonic())


async def test_all_who_ask_at_once_are_one_statement_for_what_each_has_to_be_told(
    counted: Counted, redis: aioredis.Redis, settings: Settings
) -> None:
    """The whole at first; then versions alone, until one has changed."""
    orders = [await make_order(counted) for _ in range(3)]
    reader = reader_of(counted, redis, settings)
    crowd = [poll_of(order) for order in orders] * 30

    first, again = [await told(reader, *crowd) for _ in range(2)]
    known = await told(reader, *(poll_of(order, known='W/"2"') for order in orders))
    await move_order(counted, orders[0], OrderStatus.PAID)
    counted.statements.clear()
    changed = await told(reader, *(poll_of(order, known='W/"2"') for order in orders))

    assert len(crowd) <= POLLS_PER_READ_MAX
    assert first == again
    assert [each.body is not None for each in first if isinstance(each, State)] == [True] * len(crowd)
    assert known == [State('W/"2"', None)] * 3
    assert [each.tag for each in changed if isinstance(each, State)] == ['W/"3"', 'W/"2"', 'W/"2"']
    assert counted.statements == [VERSIONS, STATES]


async def test_what_memory_has_costs_no_statement_but_that_of_the_version(
    counted: Counted, redis: aioredis.Redis, settings: Settings
) -> None:
    order, reader = await make_order(counted), reader_of(counted, redis, settings)

    states = [(await told(reader, poll_of(order)))[0] for _ in range(3)]

    assert counted.statements == [STATES, VERSIONS, VERSIONS]
    assert states == states[:1] * 3
    [others] = await told(reader, poll_of(order, user_id="another"))
    assert isinstance(others, OrderNotFound)


def test_memory_keeps_the_newest_states_within_its_bytes() -> None:
    memory = StateMemory(10 * (ENTRY_BYTES + 100))
    for number in range(1_000):
        memory.keep(str(number % 50), Drawn("a", number, "", bytes(number % 200)))
        assert memory.bytes <= 10 * (ENTRY_BYTES + 100)

    assert memory.find("49", 999) is not None
    assert memory.find("49", 949) is None
    assert "0" not in memory
    for number in range(50):
        memory.keep(str(number), Drawn("a", 1, "", bytes(100_000)))
    assert memory.bytes == 0


async def test_what_is_recorded_between_the_two_looks_is_found(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """And its ledger may be gone by then."""

    class Behind(RecordedReader):
        """It does not see at first what others have just committed."""

        behind = True

        async def read(self, polls: Sequence[Poll]) -> list[Found]:
            behind, self.behind = self.behind, False
            return [None for _ in polls] if behind else await super().read(polls)

    order, polls = await make_order(database), Polls(settings)
    recorded = Behind(database, StateMemory(MEMORY_BYTES))
    reader = StateReader(recorded, UnrecordedReader(database, redis, polls), polls, seconds_max=10.0)

    [found] = await told(reader, poll_of(order))

    assert isinstance(found, State)
    assert found.tag == 'W/"2"'


async def test_a_ledger_that_is_away_concerns_nobody_whose_order_is_recorded(shop: Shop) -> None:
    away = connect(f"redis://127.0.0.1:{free_port('127.0.0.1', 0)}/0", shop.settings)
    reader = reader_of(shop.database, away, shop.settings)
    sale, users = await shop.open_sale(units=5), [new_user_id() for _ in range(2)]
    recorded = await shop.bought(sale, users[0])
    await shop.drained(sale)
    async with recording_held_up(shop, sale):
        order_ids = [recorded, await shop.bought(sale, users[1]), f"ffffffff{recorded[8:]}"]
        asked = [Poll(each, user, None, time.monotonic()) for each, user in zip(order_ids, [*users, "x"], strict=True)]
        found = await told(reader, *asked)
    await away.aclose(close_connection_pool=True)

    assert [type(each) for each in found] == [State, NotReady, OrderNotFound]


async def test_the_cost_of_a_poll_is_that_of_its_batch(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Whatever else the process does in the meantime is not counted."""
    order, polls = await make_order(database), Polls(settings)
    reader = reader_of(database, redis, settings, polls=polls)

    async def busy() -> None:
        while True:
            sum(range(100_000))
            await asyncio.sleep(0)

    working = asyncio.create_task(busy())
    for _ in range(20):
        await told(reader, *[poll_of(order)] * 100)
    working.cancel()

    assert polls.gap_seconds * settings.poll_cpu_share < COST_SECONDS_FIRST
