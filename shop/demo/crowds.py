"""The crowds of the demo, each a process of its own, and their progress on the screen."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from loadtests.crowd.customers import Fate
from shop.local import LocalShop, NotStarted

CROWD_SECONDS_MAX = 240
CUSTOMERS_SECONDS_MAX = 1_200
BAR_WIDTH = 40

Screen = Callable[[dict[str, Any]], Table]


def run_rush(
    shop: LocalShop,
    *,
    sale_id: int,
    tokens: Path,
    record_file: Path,
    seed: int,
    connections: int,
    units: int,
    console: Console,
) -> None:
    """Let a crowd rush for so many units; what it was told is in the record file. Raises NotStarted if it fails."""
    command = [
        "loadtests.crowd.rush", "--base-url", shop.base_url, "--sale", str(sale_id), "--tokens", str(tokens),
        "--seed", str(seed), "--connections", str(connections), "--timeout", str(CROWD_SECONDS_MAX),
        "--record", str(record_file),
    ]  # fmt: skip
    _run(command, lambda progress: _rush_screen(units, progress), console)


def run_customers(shop: LocalShop, orders: Path, count: int, console: Console) -> Counter[str]:
    """Let buyers do what they want with their orders; how many did what, came too `late`, or `failed`."""
    command = [
        "loadtests.crowd.customers", "--base-url", shop.base_url, "--provider-url", shop.provider_url,
        "--orders", str(orders), "--timeout", str(CUSTOMERS_SECONDS_MAX),
    ]  # fmt: skip
    return Counter(_run(command, lambda progress: _customers_screen(count, progress), console, may_fail=True))


def _run(command: Sequence[str], screen: Screen, console: Console, *, may_fail: bool = False) -> dict[str, Any]:
    """Run a module, show its progress, and return its summary. Raises NotStarted when it fails."""
    summary: dict[str, Any] = {}
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as crowd:
        try:
            with Live(console=console, refresh_per_second=10, transient=True) as live:
                for message in _messages(crowd):
                    if "progress" in message:
                        live.update(screen(message["progress"]))
                    summary = message.get("summary", summary)
        except BaseException:
            crowd.terminate()
            raise
        if not summary or (crowd.wait() != 0 and not may_fail):
            errors = crowd.stderr.read().decode(errors="replace") if crowd.stderr else ""
            raise NotStarted(f"{command[0]} ended with status {crowd.wait()}", errors[-2000:])
    return summary


def _messages(crowd: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    for line in crowd.stdout or ():
        yield msgspec.json.decode(line)


def _rush_screen(units: int, progress: dict[str, Any]) -> Table:
    left = max(units - progress["reserved"], 0)
    seconds = max(progress["elapsed_seconds"], 0.001)
    table = Table.grid(padding=(0, 2))
    table.add_row("units left", f"{left:,}", _bar(left, units))
    table.add_row("shoppers answered", f"{progress['answered']:,}", _bar(progress["answered"], progress["shoppers"]))
    table.add_row("attempts", f"{progress['attempts']:,}", f"{progress['attempts'] / seconds:,.0f} per second")
    return table


def _customers_screen(count: int, progress: dict[str, int]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("buyers served", f"{sum(progress.values()):,}", _bar(sum(progress.values()), count))
    for fate in Fate:
        table.add_row(fate.replace("_", " "), f"{progress.get(fate, 0):,}")
    return table


def _bar(completed: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=completed, width=BAR_WIDTH)
