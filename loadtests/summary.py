"""How a run ends: a screen for people, thresholds first, and one line of JSON for programs."""

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.verify import Threshold, Verdict, thresholds

PASSED, FAILED = "✓", "✗"
ABSENT = "—"


def print_summary(verdict: Verdict, console: Console | None = None) -> None:
    """Write the end screen, by default to the standard output. Without a terminal or with NO_COLOR it is plain text."""
    (console or Console()).print(summary(verdict))


def summary(verdict: Verdict) -> RenderableType:
    """The end screen as something that rich can lay out."""
    return Group("", _thresholds(verdict), "", _figures(verdict), "", _last_line(verdict))


def json_line(verdict: Verdict) -> str:
    """The verdict as one JSON object on one line, its keys in the order of the fields."""
    return msgspec.json.encode(verdict).decode()


def _thresholds(verdict: Verdict) -> Table:
    table = Table.grid(padding=(0, 1))
    for threshold in thresholds(verdict):
        table.add_row(_mark(threshold), threshold.name, Text(threshold.shown, style="dim" if threshold.ok else "red"))
    return table


def _figures(verdict: Verdict) -> Table:
    figures = [
        ("units", f"{verdict.units:,}", "on sale"),
        ("shoppers", f"{verdict.shoppers:,}", f"who asked {verdict.attempts:,} times"),
        ("reserved", f"{verdict.reserved:,}", f"orders hold a unit, {verdict.reservations:,} were made"),
        ("persisted", f"{verdict.persisted:,}", f"units on rows, drained in {verdict.drain_seconds:.2f} s"),
        ("sold out", f"{verdict.sold_out:,}", "shoppers came too late"),
        ("over limit", f"{verdict.over_limit:,}", "shoppers had enough"),
        ("rate limited", f"{verdict.rate_limited:,}", "requests were told to wait"),
        ("errors", f"{verdict.errors:,}", "shoppers got no proper answer"),
        ("attempts", f"{verdict.attempts_per_second:,.0f}", "per second"),
        ("reserve p50", _milliseconds(verdict.reserve_p50_ms), "ms, from the request to the 202"),
        ("reserve p99", _milliseconds(verdict.reserve_p99_ms), "ms"),
    ]
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column()
    table.add_column(justify="right")
    for name, figure, remark in figures:
        table.add_row("", name, Text(figure, style="bold"), Text(remark, style="dim"))
    return table


def _last_line(verdict: Verdict) -> Text:
    failed = [threshold.name for threshold in thresholds(verdict) if not threshold.ok]
    if not failed:
        return Text(f" {PASSED} everything holds", style="bold green")
    return Text(f" {FAILED} failed: {', '.join(failed)}", style="bold red")


def _mark(threshold: Threshold) -> Text:
    return Text(PASSED, style="green") if threshold.ok else Text(FAILED, style="bold red")


def _milliseconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}"
