"""`python -m tests.invariants`: the model and the shop for as many steps as one likes, on servers of their own."""

import asyncio
import itertools
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
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
    processes: Annotated[int, typer.Option(help="Rounds at a time; as many as cores if 0.", min=0)] = 0,
) -> None:
    """Play sale after sale, and show how far it is; what differs is shown as the fewest steps that lead there."""
    seeds, done, begun = itertools.count(seed), 0, time.monotonic()
    at_once = processes or os.cpu_count() or 1
    # Each round has a process of its own, so that a long run is many short ones.
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(play_round, next(seeds)) for _ in range(at_once)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            done += sum(each.result() for each in ended)
            rate = done / (time.monotonic() - begun)
            sys.stdout.write(f"{done:,} of {steps:,} steps, {rate:,.0f} a second\n")
            sys.stdout.flush()
            if done < steps:
                running |= {pool.submit(play_round, next(seeds)) for _ in ended}


def play_round(seed: int) -> int:
    """The sales of one seed on servers of their own; returns how many steps that were."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    with embedded_servers(durable=False, redis_users=LOGINS.lines) as servers:
        settings = settings_of(servers, database="model", redis_number=0)
        migrate(settings)
        database = CrashingDatabase(settings, application_name="shop-persister")
        client, loop = connect(settings.redis_url, settings), asyncio.new_event_loop()
        try:
            return play(World(settings, database, client), loop, sales=SALES_AT_ONCE, seed=seed)
        except BaseException as error:
            error.add_note(f"make model ARGS='--steps 1 --processes 1 --seed {seed}' plays it again")
            raise
        finally:
            loop.run_until_complete(database.close())
            loop.run_until_complete(client.aclose(close_connection_pool=True))


if __name__ == "__main__":
    typer.run(main)
