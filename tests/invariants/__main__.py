"""`python -m tests.invariants`: the model and the shop for as many steps as one likes, on servers of their own."""

import asyncio
import itertools
import sys
import time
from typing import Annotated

import structlog
import typer

from shop.database import migrate
from shop.embedded import embedded_servers
from shop.redis import connect
from tests.conftest import settings_of
from tests.harness import LOGINS
from tests.invariants.test_model import play
from tests.invariants.world import CrashingDatabase, World

SALES_AT_ONCE = 200  # what the generator remembers of its choices is forgotten with each round
CRITICAL = 50


def main(
    steps: Annotated[int, typer.Option(help="How many, at least.", min=1)] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the first round; each round has the next one.")] = 1,
) -> None:
    """Play sale after sale, and show how far it is; what differs is shown as the fewest steps that lead there."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    with embedded_servers(durable=False, redis_users=LOGINS.lines) as servers:
        settings = settings_of(servers, database="model", redis_number=0)
        migrate(settings)
        database, client = (
            CrashingDatabase(settings, application_name="shop-persister"),
            connect(settings.redis_url, settings),
        )
        world, loop = World(settings, database, client), asyncio.new_event_loop()
        done, begun = 0, time.monotonic()
        for round_seed in itertools.count(seed):
            done += play(world, loop, sales=SALES_AT_ONCE, seed=round_seed)
            rate = done / (time.monotonic() - begun)
            sys.stdout.write(f"{done:,} of {steps:,} steps, {rate:,.0f} a second, last seed {round_seed}\n")
            sys.stdout.flush()
            if done >= steps:
                break
        loop.run_until_complete(database.close())
        loop.run_until_complete(client.aclose(close_connection_pool=True))


if __name__ == "__main__":
    typer.run(main)
