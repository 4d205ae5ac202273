"""The chart of the README: purchases per second and CPU per purchase of every contender, as SVG by hand.

It has no background and follows the reader's light or dark scheme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from loadtests.bench.purchases import Purchases

NAMES = {
    "bare": "bare answer",
    "asgi_best": "leanest ASGI",
    "textbook": "textbook endpoint",
    "postgres_only": "Postgres only",
    "shop": "this shop",
}
WIDTH = 720
BAR_LEFT, BAR_WIDTH = 150, 450
BAR_HEIGHT, BAR_STEP, TITLE_HEIGHT, GAP = 20, 28, 34, 22
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; }
.bar { fill: #8c959f; }
.second { fill: #c4cad1; }
.shop { fill: #1a7f37; }
.shop.second { fill: #7cc58f; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7681; }
  .second { fill: #444c56; }
  .shop { fill: #3fb950; }
  .shop.second { fill: #23702f; }
}
"""


@dataclass(frozen=True)
class _Bar:
    """One line of the chart: one or two values, the second put after the first."""

    name: str
    values: tuple[float, ...]
    shown: str


def draw(purchases: Purchases) -> str:
    """The chart of a run."""
    contenders = purchases.contenders
    rates = [
        _Bar(name, (each.per_second.median,), f"{each.per_second.median:,.0f}") for name, each in contenders.items()
    ]
    costs = []
    for name, each in contenders.items():
        servers = each.redis_cpu_us.median + (each.postgres_cpu_us.median if name == "postgres_only" else 0.0)
        shown = f"{each.api_cpu_us.median + servers:,.0f}"
        costs.append(_Bar(name, (each.api_cpu_us.median, servers), shown))
    height = 2 * (TITLE_HEIGHT + BAR_STEP * len(contenders)) + GAP
    groups = [
        *_group("Accepted purchases per second, one API process on one core", rates, top=0),
        *_group(
            "CPU per purchase in µs: the API, and lighter the server behind it",
            costs,
            top=TITLE_HEIGHT + BAR_STEP * len(contenders) + GAP,
        ),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="Purchases per second and CPU per purchase">'
    )
    return "\n".join([head, f"<style>{STYLE}</style>", *groups, "</svg>", ""])


def _group(title: str, bars: Sequence[_Bar], *, top: int) -> list[str]:
    most = max((sum(bar.values) for bar in bars), default=0.0) or 1.0
    parts = [f'<text class="title" x="0" y="{top + 18}">{escape(title)}</text>']
    for number, bar in enumerate(bars):
        y = top + TITLE_HEIGHT + number * BAR_STEP
        middle = y + BAR_HEIGHT / 2 + 4.5
        shop = " shop" if bar.name == "shop" else ""
        label = escape(NAMES.get(bar.name, bar.name))
        parts.append(f'<text x="{BAR_LEFT - 10}" y="{middle}" text-anchor="end">{label}</text>')
        x = float(BAR_LEFT)
        for place, value in enumerate(bar.values):
            width = BAR_WIDTH * value / most
            second = " second" if place else ""
            parts.append(
                f'<rect class="bar{shop}{second}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}"/>'
            )
            x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{middle}">{escape(bar.shown)}</text>')
    return parts
