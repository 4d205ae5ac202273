"""`shop order …`"""

from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shop.audit.trail.schemas import OrderTrail, TrailEntry
from shop.audit.trail.service import trail as trail_of
from shop.cli.output import Json, emit, run

app = typer.Typer(help="What happened to an order.", no_args_is_help=True)


@app.callback()
def orders() -> None:
    """What happened to an order."""


@app.command(epilog="Example: shop order trail 00000001-9f3c-8d52-a1b0-3c5f0a7e6d21")
def trail(order: Annotated[UUID, typer.Argument(help="The order's id.")], json: Json = False) -> None:
    """Everything that happened to one order, in order of time: in the ledger, its rows, its money, who was told."""
    found = run(lambda clients: trail_of(clients.database, clients.ledger, order))
    if json:
        emit(found, as_json=True)
    else:
        _show(found)


def _show(found: OrderTrail) -> None:
    """Text cells, because rich would obey what somebody has written between brackets."""
    console = Console(highlight=False)
    row, held = found.row, found.ledger
    console.print(Text(f"order {found.order_id}, " + (f"sale {found.sale_id}" if found.sale_id else "no sale")))
    console.print(Text("not recorded" if row is None else f"{row.status}: {row.quantity} for {row.user_id}"))
    if row is not None and row.replaces is not None:
        console.print(Text(f"replaces {row.replaces}"))
    if row is not None and row.replaced_by is not None:
        console.print(Text(f"replaced by {row.replaced_by}"))
    if not found.ledger_asked:
        console.print(Text("the ledger did not answer"))
    elif held is not None:
        console.print(Text(f"in the ledger: {held.status}, entry {held.seq} of epoch {held.epoch}"))
    table = Table("at", "source", "event", "facts", box=None, padding=(0, 2, 0, 0))
    for entry in found.entries:
        table.add_row(*map(Text, (f"{entry.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], entry.source, entry.event, _facts(entry))))
    console.print(table)
    if found.more:
        console.print(Text(f"there is more of: {', '.join(found.more)}"))


def _facts(entry: TrailEntry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.facts.items() if value not in (None, "", {}))
