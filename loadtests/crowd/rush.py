"""`python -m loadtests.crowd.rush`: send a crowd to a sale, from a process of its own."""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from loadtests.client.event_loop import loop_factory
from loadtests.client.http import Address
from loadtests.crowd.output import write_line
from loadtests.crowd.record import (
    CrowdRecord,
    summarize,
    write_record,
)
from loadtests.crowd.shoppers import RushPlan, rush


def read_tokens(path: Path) -> list[tuple[str, str]]:
    """Read lines of `user_id token`. Raises ValueError that names the line which is something else."""
    pairs = []
    for number, line in enumerate(path.read_text("ascii").splitlines(), 1):
        match line.split():
            case [user_id, token]:
                pairs.append((user_id, token))
            case []:
                continue
            case _:
                raise ValueError(f"{path}:{number}: expected `user_id token`")
    if not pairs:
        raise ValueError(f"{path}: no tokens")
    return pairs


app = typer.Typer(add_completion=False)

EXAMPLE = (
    "Example: python -m loadtests.crowd.rush --base-url http://127.0.0.1:8000 --sale 1 --tokens tokens.txt --seed 7"
)


@app.command(epilog=EXAMPLE)
def main(
    sale: Annotated[int, typer.Option(help="The sale's id.", min=1)],
    tokens: Annotated[Path, typer.Option(help="Lines of `user_id token`, one shopper each.", exists=True)],
    base_url: Annotated[str, typer.Option(help="Where the API listens.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(help="Decides who does what.")] = 1,
    connections: Annotated[int, typer.Option(help="Kept-alive connections that all shoppers share.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds until the run ends in any case.", min=0)] = 120.0,
    record: Annotated[Path | None, typer.Option(help="Where to write every answer, as JSON lines.")] = None,
) -> None:
    """Rush a sale: each shopper asks for one unit until it has a final answer.

    Writes lines of JSON: {"progress": …} while it runs, {"summary": …} at the end. An interrupt ends it early with what
    it has. Exit status: 0, or 1 when not one shopper got a proper answer, with the reason on standard error.
    """
    try:
        Address.of(base_url)
        plan = RushPlan(base_url, sale, read_tokens(tokens), seed, connections, timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # All that a run makes, it keeps until its end: a collection would find nothing, and costs a fifth of the time.
    gc.disable()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        result = runner.run(_rush_until_signal(plan))
    if record is not None:
        write_record(record, result)
    found = summarize(result)
    write_line({"summary": found})
    if found.errors == found.shoppers:
        told = ", ".join(f"{code} {times:,} times" for code, times in found.by_code.items()) or "nothing was sent"
        sys.stderr.write(f"error: no shopper got a proper answer from {base_url}: {told}\n")
        raise typer.Exit(1)


async def _rush_until_signal(plan: RushPlan) -> CrowdRecord:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await rush(plan, lambda progress: write_line({"progress": progress}), stop=stop)


if __name__ == "__main__":
    app()
