"""The scripts, the drain, the changes and the recovery against a plain model, step by step, in any order.

After each step of `tests.invariants.machine` the whole ledger in Redis and all rows in Postgres must be what the model
says, and I1–I5 hold. `make model` goes on for as long as one likes.
"""

import asyncio
from collections.abc import Iterator

import pytest

from shop.redis import connect
from shop.settings import Settings
from tests.invariants.machine import STEPS_PER_SALE, play
from tests.invariants.world import CrashingDatabase, World

STEPS = 2_000
SALES_MORE = 55  # many end early


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs one step at a time."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def world(fresh_settings: Settings, loop: asyncio.AbstractEventLoop) -> Iterator[World]:
    """A database of its own on each of the tests' servers."""
    own = fresh_settings.model_copy(update={"redis_url": fresh_settings.redis_url.replace("db=0", "db=6")})
    database, client = CrashingDatabase(own, application_name="shop-persister"), connect(own.redis_url, own)
    yield World(own, database, client)
    loop.run_until_complete(database.close())
    loop.run_until_complete(client.aclose(close_connection_pool=True))


@pytest.mark.timeout(900)  # it takes half a minute; a busy machine may take much longer
def test_whatever_happens_in_any_order_the_sale_is_what_the_model_says(
    world: World, loop: asyncio.AbstractEventLoop
) -> None:
    """2,000 steps, after each of which I1–I5 hold for the model, and the shop is as the model."""
    steps = play(world, loop, sales=STEPS // STEPS_PER_SALE + SALES_MORE)

    assert steps >= STEPS
