"""`python -m tests.invariants`: the model and the shop for as many steps as one likes."""

import itertools
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Annotated

import typer

from shop.processes import die_with_parent
from tests.invariants.rounds import play_round


def main(
    steps: Annotated[int, typer.Option(help="How many, at least.", min=1)] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the first round; each round has the next one.")] = 1,
    processes: Annotated[int, typer.Option(help="Rounds at a time; as many as cores if 0.", min=0)] = 0,
) -> None:
    """Play sale after sale, and show how far it is; what differs is shown as the fewest steps that lead there."""
    seeds, done, begun = itertools.count(seed), 0, time.monotonic()
    at_once = processes or os.cpu_count() or 1
    # Each round has a process of its own, so that a long run is many short ones.
    with ProcessPoolExecutor(
        at_once, mp_context=get_context("spawn"), max_tasks_per_child=1, initializer=die_with_parent
    ) as pool:
        running = {pool.submit(play_round, next(seeds)) for _ in range(at_once)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            done += sum(each.result() for each in ended)
            rate = done / (time.monotonic() - begun)
            sys.stdout.write(f"{done:,} of {steps:,} steps, {rate:,.0f} a second\n")
            sys.stdout.flush()
            if done < steps:
                running |= {pool.submit(play_round, next(seeds)) for _ in ended}


if __name__ == "__main__":
    typer.run(main)
