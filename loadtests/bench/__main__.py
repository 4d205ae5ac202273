"""`python -m loadtests.bench`: the shop against other ways to build it, side by side in one run on this machine."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from loadtests.bench.answers import measure_answers
from loadtests.bench.beside import measure_beside
from loadtests.bench.catalogue import measure_catalogue
from loadtests.bench.chart import draw
from loadtests.bench.connections import measure_connections
from loadtests.bench.drain import measure_drain
from loadtests.bench.expiry import measure_expiry
from loadtests.bench.growth import measure_growth
from loadtests.bench.machine import describe
from loadtests.bench.overload import measure_overload, measure_while_draining
from loadtests.bench.pages import measure_pages
from loadtests.bench.plan import CONNECTIONS, FULL, HURRY_AFTER_SECONDS, QUICK, Size
from loadtests.bench.polls import measure_polls
from loadtests.bench.purchases import UNITS, measure_purchases
from loadtests.bench.report import print_results, write_readme
from loadtests.bench.results import Results, judge
from loadtests.bench.sales import prepare_sales
from loadtests.bench.streams import measure_streams
from loadtests.bench.testbed import NotMeasured, Testbed, running_testbed
from loadtests.bench.wrk import measure_wrk
from shop.failure_isolation import SERVER_ERRORS

RESULTS = Path(__file__).parents[1] / "results"
README = Path(__file__).parents[2] / "README.md"
NOT_MEASURED, BAR_MISSED = 2, 1
BUSY_BELOW = 0.85


class Part(StrEnum):
    """The parts of a run in their order: the worker is stopped during the first eight."""

    PURCHASES = "purchases"
    ANSWERS = "answers"
    PAGES = "pages"
    POLLS = "polls"
    CATALOGUE = "catalogue"
    OVERLOAD = "overload"
    BESIDE = "beside"
    CONNECTIONS = "connections"
    WRK = "wrk"
    WHILE_DRAINING = "while_draining"
    STREAMS = "streams"
    DRAIN = "drain"
    GROWTH = "growth"
    EXPIRY = "expiry"


Measure = Callable[[Testbed, Size, Callable[[str], None]], Awaitable[object]]
PARTS: dict[Part, Measure] = {
    Part.PURCHASES: measure_purchases,
    Part.ANSWERS: measure_answers,
    Part.PAGES: measure_pages,
    Part.POLLS: measure_polls,
    Part.STREAMS: measure_streams,
    Part.CATALOGUE: measure_catalogue,
    Part.DRAIN: measure_drain,
    Part.GROWTH: measure_growth,
    Part.EXPIRY: measure_expiry,
    Part.OVERLOAD: measure_overload,
    Part.BESIDE: measure_beside,
    Part.CONNECTIONS: measure_connections,
    Part.WRK: measure_wrk,
    Part.WHILE_DRAINING: measure_while_draining,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: make bench ARGS=--quick")
def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter rounds and smaller sales: within four minutes.")
    ] = False,
    only: Annotated[list[Part] | None, typer.Option(help="Measure this part alone; may be repeated.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of each part.", min=1, max=1000)] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds of a round.", min=0.1, max=60)] = None,
    connections: Annotated[
        list[int] | None, typer.Option(help="Connections of the part of this name; may be repeated.", min=1, max=10_000)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where bench.json and bench.svg go.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the servers keep their data meanwhile.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the table of a complete run at its full size into the README.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when a bar is missed.")] = False,
) -> None:
    """Measure the shop against a bare answer, the textbook endpoint and Postgres alone.

    A complete run writes bench.json and bench.svg to loadtests/results; one of some parts does so only with --output.
    Exits with 2 when something could not be measured.
    """
    size = (QUICK if quick else FULL).changed(rounds, seconds, connections)
    parts = [part for part in Part if part in (only or Part)]
    progress = Console(stderr=True, highlight=False)
    # Of both: a shell that starts it in the background has it ignore the one, and then nothing would end it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        results = asyncio.run(_measure(size, parts, directory, progress))
    except NotMeasured as error:
        progress.print(f"not measured: {error}", markup=False)
        raise typer.Exit(NOT_MEASURED) from error
    target = output or (None if only else RESULTS)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        (target / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
        if results.purchases:
            (target / "bench.svg").write_text(draw(results.purchases))
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(results) + b"\n")
    else:
        print_results(results, Console(highlight=False))
    if (
        write
        and not (quick or only or rounds or seconds or connections or results.failures)
        and not write_readme(results, README)
    ):
        progress.print("README.md has no <!-- bench --> … <!-- /bench -->; nothing was written there")
    if results.failures:
        raise typer.Exit(NOT_MEASURED)
    if check and not all(verdict.ok for verdict in results.bars):
        raise typer.Exit(BAR_MISSED)


async def _measure(size: Size, parts: list[Part], directory: Path | None, progress: Console) -> Results:
    began = time.monotonic()

    def report(line: str) -> None:
        progress.print(f"[dim]{time.monotonic() - began:5.0f} s[/dim]  {line}", markup=True)

    async with running_testbed(directory) as testbed:
        results = Results(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=size.quick,
            seconds=0.0,
            machine=await describe(testbed),
            notes=notes_of(size, apart=testbed.cores.apart),
        )
        await prepare_sales(testbed, sales_needed(size, parts))
        for part in parts:
            if size.quick and part is not Part.PURCHASES and time.monotonic() - began > HURRY_AFTER_SECONDS:
                size = size.changed(1, None)
                results.notes.append(f"slow machine: only one round of {part}")
            report(f"[bold]{part}[/bold]")
            gc.collect()
            try:
                setattr(results, part.value, await PARTS[part](testbed, size, report))
            except (NotMeasured, *SERVER_ERRORS) as error:
                results.failures[part.value] = str(error) or repr(error)
                report(f"not measured: {error}")
    results.seconds = round(time.monotonic() - began, 1)
    results.notes += busy_notes(results)
    judge(results)
    return results


def sales_needed(size: Size, parts: Sequence[Part]) -> list[int]:
    """The units of the sales that the parts with a resting worker will use, so that it has to work only once."""
    many = dict.fromkeys((Part.ANSWERS, Part.PAGES, Part.POLLS, Part.CATALOGUE), 1)
    many |= {
        Part.PURCHASES: size.rounds,
        Part.OVERLOAD: size.overload_rounds,
        Part.CONNECTIONS: len(size.levels),
    }
    units = [UNITS] * sum(count for part, count in many.items() if part in parts)
    return units + ([1] if Part.ANSWERS in parts else [])


def notes_of(size: Size, *, apart: bool) -> list[str]:
    """What a reader must know of how this run was made."""
    notes = []
    if size.quick:
        largest = max(size.growth_orders)
        notes.append(
            f"quick: short rounds, growth only to {largest:,} orders instead of 1,000,000,"
            f" and {size.expiry_orders:,} orders expire instead of {FULL.expiry_orders:,}"
        )
    if not apart:
        notes.append("one core: the API under test shared it with everything else")
    return notes


def busy_notes(results: Results) -> list[str]:
    """Whether something else used the core under test: then what was measured per second is too low."""
    if results.purchases:
        share = results.purchases.contenders["bare"].api_share
    elif results.connections and (level := results.connections.levels.get(CONNECTIONS)):
        share = level.contenders["bare"].api_share
    else:
        return []
    return [f"busy machine: the bare answer got {share:.0%} of a core for itself"] if share < BUSY_BELOW else []


if __name__ == "__main__":
    app()
