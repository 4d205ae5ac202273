"""`shop order …`"""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from shop.audit.trail.schemas import OrderTrail, TrailEntry
from shop.audit.trail.service import trail as trail_of
from shop.cli.output import Json, emit, run, write
from shop.terminal import visible

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
    write("\n".join(map(visible, _summary(found))))
    emit(
        [
            {
                "at": f"{entry.at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                "source": entry.source,
                "event": entry.event,
                "facts": _facts(entry),
            }
            for entry in found.entries
        ],
        as_json=False,
    )
    if found.more:
        write(visible(f"there is more of: {', '.join(found.more)}"))


def _summary(found: OrderTrail) -> Iterator[str]:
    row, held = found.row, found.ledger
    yield f"order {found.order_id}, " + (f"sale {found.sale_id}" if found.sale_id else "no sale")
    yield "not recorded" if row is None else f"{row.status}: {row.quantity} for {row.user_id}"
    if row is not None and row.replaces is not None:
        yield f"replaces {row.replaces}"
    if row is not None and row.replaced_by is not None:
        yield f"replaced by {row.replaced_by}"
    if not found.ledger_asked:
        yield "the ledger did not answer"
    elif held is not None:
        yield f"in the ledger: {held.status}, entry {held.seq} of epoch {held.epoch}"


def _facts(entry: TrailEntry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.facts.items() if value not in (None, "", {}))
