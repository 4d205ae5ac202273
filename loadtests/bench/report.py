"""The results for people: tables in the terminal, and one in the README."""

import re
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.bench.chart import NAMES
from loadtests.bench.report_connections import groups_of, markdown_of, table_of
from loadtests.bench.results import Results, Verdict
from loadtests.bench.rounds import Spread, Summary
from loadtests.bench.wrk import lines_of

README_BLOCK = re.compile(r"<!-- bench -->.*<!-- /bench -->", re.DOTALL)


def print_results(results: Results, console: Console) -> None:
    """Every part that was measured, then the ratios against their bars."""
    machine = results.machine
    console.print(
        f"{machine.processor}, {machine.cores} cores · Python {machine.python} · uvicorn {machine.uvicorn}"
        f" · Valkey {machine.valkey} · PostgreSQL {machine.postgres} · one fsync {machine.fsync_us:,.0f} µs"
    )
    for note in results.notes:
        console.print(note, style="yellow")
    if results.purchases:
        rows = [(NAMES[name], summary) for name, summary in results.purchases.contenders.items()]
        console.print(_summaries("Purchases", rows))
        console.print(
            f"{results.purchases.dropped_rounds} rounds dropped because the machine was throttled;"
            f" a script call of the shop carried {results.purchases.group_size or '?'} purchases"
        )
    if results.connections:
        console.print(table_of(results.connections))
        for line in groups_of(results.connections):
            console.print(line)
    for line in lines_of(results.wrk) if results.wrk else ():
        console.print(line)
    if results.answers:
        answers = results.answers
        rows = [("bare answer", answers.bare), ("sold out", answers.sold_out), ("replays", answers.replays)]
        console.print(_summaries("Answers without a purchase", rows))
    if pages := results.pages:
        rows = [("bare answer", pages.bare), ("a sale", pages.sale), ("a product", pages.product),
                ("a sale that is known", pages.unchanged)]  # fmt: skip
        console.print(_summaries("Public pages", rows))
    if polls := results.polls:
        rows = [("bare answer", polls.bare), ("purchase", polls.purchase), ("poll of an order", polls.poll),
                ("of one that is known", polls.unchanged)]  # fmt: skip
        console.print(_summaries("Polls of orders", rows))
    console.print(_others(results))
    console.print(_bars(results.bars))
    for part, reason in results.failures.items():
        console.print(f"{part} was not measured: {reason}", style="red", markup=False)


def _summaries(title: str, rows: Iterable[tuple[str, Summary]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("per second", "min–max", "p50 ms", "p99 ms", "API µs", "Redis µs", "Postgres µs", "RSS MB", "rounds",
                 "generator"):  # fmt: skip
        table.add_column(name, justify="right")
    for name, each in rows:
        table.add_row(
            name,
            f"{each.per_second.median:,.0f}",
            f"{each.per_second.min:,.0f}–{each.per_second.max:,.0f}",
            f"{each.p50_ms.median:,.1f}",
            f"{each.p99_ms.median:,.1f}",
            f"{each.api_cpu_us.median:,.1f}",
            f"{each.redis_cpu_us.median:,.1f}",
            f"{each.postgres_cpu_us.median:,.1f}",
            f"{each.api_rss_mb:,.0f}",
            str(each.rounds),
            f"{each.generator_share:.0%}",
        )
    return table


def _others(results: Results) -> Table:
    table = Table(title="The shop", title_justify="left", show_header=False)
    if streams := results.streams:
        table.add_row(
            f"{streams.streams:,} event streams at once",
            f"all have an event in {streams.seconds:,.1f} s, {streams.refused + streams.lost:,} were refused or lost;"
            f" {streams.kib_per_stream:,.1f} KiB and {streams.api_cpu_us:,.0f} µs each",
        )
    if drain := results.drain:
        table.add_row("drained by one worker", f"{_shown(drain.drained_per_second)} orders/s")
        table.add_row("COPY of the same rows", f"{_shown(drain.copied_per_second)} orders/s")
        table.add_row("one transaction per order", f"{_shown(drain.single_per_second)} orders/s")
    for sale in results.growth.sales if results.growth else ():
        table.add_row(
            f"after {sale.orders:,} orders",
            f"{_shown(sale.cpu_us, 1)} µs of API and Redis per order, {sale.redis_bytes_per_order:.0f} bytes in Redis",
        )
    if expiry := results.expiry:
        cpu = expiry.worker_cpu_us.median + expiry.postgres_cpu_us.median + expiry.redis_cpu_us.median
        table.add_row(
            f"{expiry.orders:,} orders expire",
            f"{_shown(expiry.expired_per_second)} orders/s, {cpu:,.0f} µs of CPU each;"
            f" p99 of a payment {expiry.payment_p99_ms.median:,.1f} ms, {expiry.idle_payment_p99_ms.median:,.1f} idle",
        )
    for name, load in results.overload.loads.items() if results.overload else ():
        offered = f"{load.offered_per_second.median:,.0f} offered, " if load.offered_per_second else ""
        table.add_row(
            f"{name.replace('_', ' ')}, {load.connections:,} connections",
            f"{offered}{_shown(load.goodput_per_second)} accepted/s, p99 {load.p99_ms.median:,.1f} ms,"
            f" {load.refused:,} refused, {load.lost + load.unsent:,} lost or unsent",
        )
    if catalogue := results.catalogue:
        table.add_row(
            "readers of the catalogue",
            f"an expired key is loaded {_shown(catalogue.stampede_loads)} times, made-up ids are"
            f" {_shown(catalogue.penetration_per_second)} questions/s, p99 of a cold product"
            f" {catalogue.cold_p99_ms.median:,.1f} ms, of a change {catalogue.stale_ms.median:,.1f} ms",
        )
    for name, each in results.beside.crowds.items() if results.beside else ():
        table.add_row(
            f"beside {name}, {each.reads_per_second.median:,.0f} answers/s",
            f"{_shown(each.purchases_per_second)} purchases/s, p99 {each.p99_ms.median:,.1f} ms",
        )
    if busy := results.while_draining:
        table.add_row(
            "while the worker drains",
            f"{_shown(busy.purchases_per_second)} purchases/s, {busy.frozen_per_second.median:,.0f} while it is frozen,"
            f" p99 {busy.p99_ms.median:,.1f} ms, {busy.recorded_share.median:.0%} recorded meanwhile",
        )
    return table


def _bars(verdicts: Iterable[Verdict]) -> Table:
    table = Table(title="Bars", title_justify="left")
    for name in ("", "ratio", "meaning", "value", "bar"):
        table.add_column(name, justify="right" if name in {"value", "bar"} else "left")
    for each in verdicts:
        mark = "[green]✓[/green]" if each.ok else "[red]✗[/red]"
        table.add_row(mark, each.name, each.meaning, f"{each.value:,.2f}", f"{_sign(each)} {each.bar:g}")
    return table


def write_readme(results: Results, readme: Path) -> bool:
    """Put the figures between the markers of the README; False when it has no place for them."""
    text = readme.read_text()
    replaced, count = README_BLOCK.subn(lambda _: f"<!-- bench -->\n{markdown(results)}\n<!-- /bench -->", text)
    if count == 1:
        readme.write_text(replaced)
    return count == 1


def markdown(results: Results) -> str:
    """The contenders and the ratios as Markdown."""
    lines: list[str] = []
    if results.purchases:
        lines += [
            "| one process on one core | purchases/s | p50 ms | p99 ms | API CPU µs | Redis CPU µs |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, each in results.purchases.contenders.items():
            lines.append(
                f"| {NAMES[name]} | {each.per_second.median:,.0f} | {each.p50_ms.median:,.1f} |"
                f" {each.p99_ms.median:,.1f} | {each.api_cpu_us.median:,.1f} | {each.redis_cpu_us.median:,.1f} |"
            )
        lines.append("")
    if results.connections:
        lines += markdown_of(results.connections)
    if results.wrk:
        lines += [" ".join(lines_of(results.wrk)), ""]
    lines += ["| ratio | meaning | value | bar |", "|---|---|--:|--:|"]
    for verdict in results.bars:
        value = f"{verdict.value:,.2f}" if verdict.ok else f"{verdict.value:,.2f} (missed)"
        lines.append(f"| `{verdict.name}` | {verdict.meaning} | {value} | {_sign(verdict)} {verdict.bar:g} |")
    machine = results.machine
    lines += [
        "",
        f"Measured {results.at[:10]} on {machine.processor}, Python {machine.python}, Valkey {machine.valkey} with"
        f" `appendfsync always` (one fsync {machine.fsync_us:,.0f} µs), PostgreSQL {machine.postgres}."
        + "".join(f" {note[0].upper()}{note[1:]}." for note in results.notes),
    ]
    return "\n".join(lines)


def _sign(verdict: Verdict) -> str:
    return "≥" if verdict.sense == "at least" else "≤"


def _shown(spread: Spread, digits: int = 0) -> str:
    return f"{spread.median:,.{digits}f} ({spread.min:,.{digits}f}–{spread.max:,.{digits}f})"
