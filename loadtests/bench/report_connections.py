"""The part `connections` for people: a table in the terminal, and one for the README with a line for each level."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtests.bench.chart import NAMES
from loadtests.bench.connections import ByConnections, Level, SystemCalls

COLUMNS = ("at", "", "per second", "p50–p99 ms", "API+Redis µs", "/ bare", "AOF bytes", "calls")
MARKDOWN_HEAD = [
    "| connections | purchases/s: shop (bare, leanest ASGI) | CPU µs: shop (bare, leanest ASGI) | p50 / p99 ms |"
    " group p10 / p50 / p90 | AOF bytes per order |",
    "|--:|--:|--:|--:|--:|--:|",
]


def table_of(measured: ByConnections) -> Table:
    """Every contender at every level; calls are the system's reads and writes per order, API+Redis."""
    table = Table(title="Purchases by connections", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="right" if name else "left")
    for connections, level in measured.levels.items():
        for name, each in level.contenders.items():
            table.add_row(
                f"{connections:,}",
                NAMES[name],
                f"{each.per_second.median:,.0f}",
                f"{each.p50_ms.median:,.1f}–{each.p99_ms.median:,.1f}",
                f"{each.api_cpu_us.median:,.0f}+{each.redis_cpu_us.median:,.0f}",
                f"{each.cpu_us / level.contenders['bare'].api_cpu_us.median:,.1f}",
                _aof_bytes(level, name),
                _calls(level.system_calls[name]),
            )
    return table


def groups_of(measured: ByConnections) -> list[str]:
    """A line for each level: how many purchases of the shop shared a script call."""
    lines = []
    for connections, level in measured.levels.items():
        if groups := level.groups:
            shares = " · ".join(f"≤ {bound} {share:.0%}" for bound, share in groups.shares.items())
            lines.append(
                f"{connections:5,} connections: groups of {groups.mean:g} on average,"
                f" p10 {groups.p10:g}, p50 {groups.p50:g}, p90 {groups.p90:g}; calls with {shares}"
            )
    return lines


def markdown_of(measured: ByConnections) -> list[str]:
    """The lines of the README's table."""
    lines = list(MARKDOWN_HEAD)
    for connections, level in measured.levels.items():
        shop, bare, best = (level.contenders[name] for name in ("shop", "bare", "asgi_best"))
        groups = f"{level.groups.p10:g} / {level.groups.p50:g} / {level.groups.p90:g}" if level.groups else "?"
        lines.append(
            f"| {connections:,} | {shop.per_second.median:,.0f}"
            f" ({bare.per_second.median:,.0f}, {best.per_second.median:,.0f}) | {shop.cpu_us:,.1f}"
            f" ({bare.api_cpu_us.median:,.1f}, {best.cpu_us:,.1f}) | {shop.p50_ms.median:,.2f} /"
            f" {shop.p99_ms.median:,.2f} | {groups} | {_aof_bytes(level, 'shop')} |"
        )
    return [*lines, ""]


def _aof_bytes(level: Level, name: str) -> str:
    return f"{level.aof_bytes[name].median:,.0f}" if name in level.aof_bytes else "–"


def _calls(calls: SystemCalls) -> str:
    return "+".join("–" if each is None else f"{each:,.1f}" for each in (calls.api, calls.redis))
