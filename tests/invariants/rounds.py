"""One round of a long run of the model, in a process and on servers of its own."""

import asyncio

import structlog

from shop.embedded import embedded_servers
from shop.migrating import migrate
from shop.redis import connect
from tests.conftest import settings_of
from tests.harness import LOGINS
from tests.invariants.machine import play
from tests.invariants.world import CrashingDatabase, World

SALES = 200  # what the generator remembers of its choices is forgotten with each round
CRITICAL = 50


def play_round(seed: int) -> int:
    """The sales of one seed on servers of their own; returns how many steps that were."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    with embedded_servers(durable=False, redis_users=LOGINS.lines) as servers:
        settings = settings_of(servers, database="model", redis_number=0)
        migrate(settings)
        database = CrashingDatabase(settings, application_name="shop-persister")
        client, loop = connect(settings.redis_url, settings), asyncio.new_event_loop()
        try:
            return play(World(settings, database, client), loop, sales=SALES, seed=seed)
        except BaseException as error:
            error.add_note(f"make model ARGS='--steps 1 --processes 1 --seed {seed}' plays it again")
            raise
        finally:
            loop.run_until_complete(database.close())
            loop.run_until_complete(client.aclose(close_connection_pool=True))
