"""How a run ends: a screen for people, thresholds first, and one line of JSON for programs."""

from collections.abc import Sequence

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtests.judge import afterlife
from loadtests.judge.afterlife import Afterlife
from loadtests.judge.invariants import Threshold
from loadtests.judge.verify import Verdict, thresholds
from shop.currencies import written

PASSED, FAILED = "✓", "✗"
ABSENT = "—"


def print_summary(verdict: Verdict, console: Console | None = None) -> None:
    """Write the end screen, by default to the standard output. Without a terminal or with NO_COLOR it is plain text."""
    (console or Console()).print(summary(verdict))


def summary(verdict: Verdict) -> RenderableType:
    """The end screen as something that rich can lay out."""
    return Group("", _checks(thresholds(verdict)), "", _figures(verdict), "", _last_line(verdict))


def print_afterlife(after: Afterlife, console: Console) -> None:
    """Write what has become of the orders and of the money."""
    console.print(Group("", _checks(afterlife.thresholds(after)), "", _afterlife_figures(after), "", _end(after)))


def json_line(verdict: Verdict, after: Afterlife | None = None) -> str:
    """The figures as one JSON object on one line: those of the rush, then those of the afterlife.

    An invariant is true if it held both times.
    """
    figures = msgspec.to_builtins(verdict)
    if after is not None:
        held = {name: verdict.invariants.get(name, True) and holds for name, holds in after.invariants.items()}
        figures |= {**msgspec.to_builtins(after), "invariants": held}
    return msgspec.json.encode(figures).decode()


def _checks(found: Sequence[Threshold]) -> Table:
    table = Table.grid(padding=(0, 1))
    for threshold in found:
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
    return _table(figures)


def _afterlife_figures(after: Afterlife) -> Table:
    figures = [
        ("paid", f"{after.paid:,}", "orders"),
        ("refunded", f"{after.refunded:,}", "orders, by an admin, with their units"),
        ("expired", f"{after.expired:,}", "orders were forgotten by their buyers"),
        ("cancelled", f"{after.cancelled:,}", "orders"),
        ("retried", f"{after.retried:,}", f"purchases sent again, {after.retries_found:,} found their order"),
        ("late", f"{after.late_customers:,}", "buyers came after their hold"),
        ("returned", f"{after.returned:,}", "units came back"),
        ("resold", f"{after.resold:,}", f"of them, to {after.second_wave:,} new shoppers"),
        ("captured", written(after.captured_minor, after.currency), "by the rows, "
         f"{written(after.provider_captured_minor, after.currency)} by the provider's books"),
        ("refunded", written(after.refunded_minor, after.currency), "by the rows, "
         f"{written(after.provider_refunded_minor, after.currency)} by the provider's books"),
    ]  # fmt: skip
    return _table(figures)


def _table(figures: Sequence[tuple[str, str, str]]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column()
    table.add_column(justify="right")
    for name, figure, remark in figures:
        table.add_row("", name, Text(figure, style="bold"), Text(remark, style="dim"))
    return table


def _last_line(verdict: Verdict) -> Text:
    return _verdict_on(thresholds(verdict))


def _end(after: Afterlife) -> Text:
    return _verdict_on(afterlife.thresholds(after))


def _verdict_on(found: Sequence[Threshold]) -> Text:
    failed = [threshold.name for threshold in found if not threshold.ok]
    if not failed:
        return Text(f" {PASSED} everything holds", style="bold green")
    return Text(f" {FAILED} failed: {', '.join(failed)}", style="bold red")


def _mark(threshold: Threshold) -> Text:
    return Text(PASSED, style="green") if threshold.ok else Text(FAILED, style="bold red")


def _milliseconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}"
