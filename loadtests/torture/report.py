"""A run for people and for programs: the screen while it lasts, the table, the line of JSON, the README."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadtests.judge.invariants import SENTENCES
from loadtests.torture.plan import counted
from loadtests.torture.run import State

README_BLOCK = re.compile(r"<!-- torture -->.*<!-- /torture -->", re.DOTALL)
REFRESHES_PER_SECOND = 4


class Results(msgspec.Struct):
    """The figures of a run; the JSON object at its end has these keys.

    faults                how many were inflicted; `fault_kinds` has how often each
    kills                 kill -9 with a purchase in flight
    requests              sent by the buyers, repeats included; `answers` has how often each code came
    purchases             wishes of buyers: a user, a sale, a key
    acknowledged          purchases that were promised an order, as the buyers wrote it down
    lost                  of those, without a row and not brought back by their receipt
    honoured_by_receipt   of those, without a row until their receipt was shown
    oversold              units of live orders beyond the units on sale
    over_limit            users above their limit
    duplicated            keys that were promised two orders
    ghosts                rows that no attempt explains
    longest_heal_seconds  from the end of a fault until everything was well
    """

    at: str
    seed: int
    minutes: float
    aof: str
    rounds: int
    faults: int
    fault_kinds: dict[str, int]
    kills: int
    sales: int
    changes: int
    requests: int
    answers: dict[str, int]
    purchases: int
    acknowledged: int
    lost: int
    honoured_by_receipt: int
    oversold: int
    over_limit: int
    duplicated: int
    ghosts: int
    checks: int
    longest_heal_seconds: float
    longest_heal_of: str
    invariants: dict[str, bool]
    violations: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations and all(self.invariants.values())


def results_of(state: State) -> Results:
    """The figures of a run that is over."""
    finding = state.finding
    return Results(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=state.plan.seed,
        minutes=round(state.seconds / 60, 2),
        aof=state.plan.aof,
        rounds=state.rounds,
        faults=state.faults.total(),
        fault_kinds=dict(sorted(state.faults.items())),
        kills=state.kills,
        sales=state.driver.opened if state.driver else 0,
        changes=state.driver.changes if state.driver else 0,
        requests=state.crowd.requests if state.crowd else 0,
        answers=dict(state.crowd.tally.most_common()) if state.crowd else {},
        purchases=state.purchases,
        acknowledged=state.acknowledged,
        lost=finding.lost,
        honoured_by_receipt=finding.honoured_by_receipt,
        oversold=finding.oversold,
        over_limit=finding.over_limit,
        duplicated=finding.duplicated,
        ghosts=finding.ghosts,
        checks=finding.checks,
        longest_heal_seconds=round(state.longest_heal_seconds, 2),
        longest_heal_of=state.longest_heal_of,
        invariants=finding.invariants,
        violations=finding.violations,
    )


class Screen:
    """What is shown while it lasts: a live table on a terminal, else a line for each round."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._state: State | None = None

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console,
                              refresh_per_second=REFRESHES_PER_SECOND, transient=True)  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def report(self, state: State, line: str) -> None:
        """One step of the run."""
        self._state = state
        if self._live is None:
            told = Text(f"{state.elapsed_seconds:6.1f} s  ", style="dim")
            self._console.print(told + Text(f"{line} ({state.acknowledged:,} acknowledged, {state.kills} kills)"))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        state = self._state
        if state is None:
            table.add_row("the shop is starting")
            return table
        whole = state.plan.minutes * 60
        table.add_row("elapsed", f"{state.elapsed_seconds:,.0f} of {whole:,.0f} s")
        table.add_row("now", Text(state.doing, style="bold"))
        table.add_row("faults", f"{state.faults.total()} of {len(state.faults)} kinds, {state.kills} kills")
        table.add_row("purchases", f"{state.purchases:,}, {state.acknowledged:,} acknowledged")
        table.add_row("longest heal", f"{state.longest_heal_seconds:.1f} s  {state.longest_heal_of}")
        return table


def print_results(results: Results, console: Console) -> None:
    """The table at the end, then every violation."""
    table = Table.grid(padding=(0, 2))
    for name, figure in figures(results):
        table.add_row(f"  {name}", Text(figure))
    console.print(table)
    for name, holds in results.invariants.items():
        mark, style = ("✓", "green") if holds else ("✗", "bold red")
        console.print(Text(f"{mark} ", style=style) + Text(f"{name} {SENTENCES[name]}"))
    for sentence in results.violations:
        console.print(Text(f"✗ {sentence}", style="red"))


def figures(results: Results) -> list[tuple[str, str]]:
    """The rows of the table."""
    return [
        ("seed", str(results.seed)),
        ("minutes", f"{results.minutes:g}, appendfsync {results.aof}"),
        ("faults", f"{results.faults} in {results.rounds} rounds, of {len(results.fault_kinds)} kinds"),
        ("by kind", counted(results.fault_kinds)),
        ("kills", f"{results.kills} kill -9 with a purchase in flight"),
        ("sales", f"{results.sales}, changed {results.changes:,} times while they sold"),
        ("requests", f"{results.requests:,} for {results.purchases:,} purchases"),
        ("acknowledged", f"{results.acknowledged:,}"),
        ("lost", f"{results.lost:,} ({results.honoured_by_receipt:,} brought back by their receipts)"),
        ("oversold", f"{results.oversold:,} units"),
        ("over the limit", f"{results.over_limit:,} buyers"),
        ("sold twice", f"{results.duplicated:,}"),
        ("ghosts", f"{results.ghosts:,} rows that nobody was promised"),
        ("longest heal", f"{results.longest_heal_seconds:g} s ({results.longest_heal_of})"),
        ("checks", f"{results.checks:,} of a whole sale, and what must hold held in each" if results.ok
         else f"{results.checks:,} of a whole sale"),
    ]  # fmt: skip


def json_line(results: Results) -> str:
    """The figures as one JSON object on one line."""
    return msgspec.json.encode(results).decode()


def write_longest(results: Results, *, readme: Path, file: Path) -> bool:
    """Keep the run and put its table into the README, if no longer run is there; False when it was not written."""
    known: dict[str, Any] = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if results.minutes < known.get("minutes", 0.0):
        return False
    replaced, count = README_BLOCK.subn(
        lambda _: f"<!-- torture -->\n{markdown(results)}\n<!-- /torture -->", readme.read_text()
    )
    if count != 1:
        return False
    readme.write_text(replaced)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    return True


def markdown(results: Results) -> str:
    """The table for the README."""
    lines = [f"| the longest run | {results.at[:10]} |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {figure} |" for name, figure in figures(results)])
