"""`python -m loadtests.torture`: break the shop for minutes or hours, and count what it forgot."""

import asyncio
import random
import shutil
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from loadtests.client.event_loop import loop_factory
from loadtests.torture.faults import FAULTS
from loadtests.torture.healing import HEAL_SECONDS_BAR
from loadtests.torture.report import Results, Screen, json_line, print_results, results_of, write_longest
from loadtests.torture.run import State, TorturePlan, torture
from loadtests.torture.testbed import new_directory

README = Path(__file__).parents[2] / "README.md"
RESULTS = Path(__file__).parents[1] / "results" / "torture.json"
BROKEN = 1
SEED_MAX = 2**31

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Aof(StrEnum):
    """When Redis lets the disk have what it wrote."""

    ALWAYS = "always"
    EVERYSEC = "everysec"


@app.command(epilog='Example: make torture ARGS="--minutes 60 --seed 7 --json"')
def main(
    minutes: Annotated[float, typer.Option(help="How long.", min=0.05, max=60 * 24 * 7)] = 5.0,
    seed: Annotated[int | None, typer.Option(help="Decides which faults come in which order.")] = None,
    aof: Annotated[Aof, typer.Option(help="When the ledger's server syncs its file to the disk.")] = Aof.ALWAYS,
    only: Annotated[list[str] | None, typer.Option(help="Only this kind of fault; may be repeated.")] = None,
    buyers: Annotated[int, typer.Option(help="How many buy at the same time.", min=1, max=2_000)] = 64,
    heal_seconds: Annotated[
        float, typer.Option(help="How long healing may take, times the machine's slowdown; 60 s at most.", min=1)
    ] = HEAL_SECONDS_BAR,
    directory: Annotated[Path | None, typer.Option(help="Where the run makes the directory of its data.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory of a good run too.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the table into the README, unless a longer run is there.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Torture a shop of its own under load, and hold it to every promise.

    Exits with 1 when one was broken; the evidence stays in the directory that is named then.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if unknown := set(only or ()) - {fault.name for fault in FAULTS}:
        raise typer.BadParameter(f"no such fault: {', '.join(sorted(unknown))}")
    chosen = random.SystemRandom().randrange(SEED_MAX) if seed is None else seed
    console.print(f"seed {chosen}")
    faults = [fault for fault in FAULTS if not only or fault.name in only]
    plan = TorturePlan(chosen, minutes, aof.value, buyers, faults, heal_seconds=heal_seconds)
    home = new_directory(directory)
    with Screen(console) as screen, asyncio.Runner(loop_factory=loop_factory()) as runner:
        state = runner.run(_until_signal(plan, home, screen))
    results = results_of(state)
    _finish(results, home, console, keep=keep, as_json=json)
    if (
        write
        and results.ok
        and not only
        and heal_seconds <= HEAL_SECONDS_BAR
        and not write_longest(results, readme=README, file=RESULTS)
    ):
        console.print("the README has the table of a longer run, or no place for one; nothing was written there")
    if not results.ok:
        raise typer.Exit(BROKEN)


async def _until_signal(plan: TorturePlan, home: Path, screen: Screen) -> State:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await torture(plan, home, screen.report, stop=stop)


def _finish(results: Results, home: Path, console: Console, *, keep: bool, as_json: bool) -> None:
    print_results(results, console if as_json else Console(highlight=False))
    if results.ok and not keep:
        shutil.rmtree(home, ignore_errors=True)
    else:
        console.print(Text(f"logs, data and every answer are in {home}"))
    if as_json:
        sys.stdout.write(json_line(results) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    app()
