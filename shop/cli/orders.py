"""`shop order …`"""

from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

import typer

from shop.bounds import ROW_ID_MAX
from shop.cli.clients import Clients, run
from shop.cli.listing import AfterOption, BeforeOption, FromOption, LimitOption, query, show
from shop.cli.output import Json, emit, write
from shop.ledger.order_ids import SALE_ID_MAX
from shop.orders.listing import service
from shop.orders.listing.schemas import OrderAdminPage, OrderAdminRead, OrderQuery
from shop.orders.models import OrderStatus
from shop.support.trail.schemas import OrderTrail, TrailEntry
from shop.support.trail.service import trail as trail_of
from shop.terminal import visible

OrderArgument = Annotated[UUID, typer.Argument(help="The order's id.")]
COLUMNS = ("id", "status", "user_id", "sale_id", "quantity", "total_minor", "currency", "reserved_at")

app = typer.Typer(help="Orders, and what happened to them.", no_args_is_help=True)


def add_to(shop: typer.Typer) -> None:
    """Register the commands of this module."""
    shop.add_typer(app, name="order")


@app.command(name="list", epilog="Example: shop order list --status paid --sale 1")
def list_(
    status: Annotated[OrderStatus | None, typer.Option(help="Only orders in this state.")] = None,
    sale: Annotated[int | None, typer.Option(min=1, max=SALE_ID_MAX, help="Only purchases of this sale.")] = None,
    user: Annotated[str | None, typer.Option(help="Only orders of this account, by its id.")] = None,
    product: Annotated[int | None, typer.Option(min=1, max=ROW_ID_MAX, help="Only orders of this product.")] = None,
    of_sale: Annotated[bool | None, typer.Option("--of-sale/--ordinary", help="Of sales, or ordinary ones.")] = None,
    replacement: Annotated[bool | None, typer.Option(help="Whether late money bought it.")] = None,
    created_from: FromOption = None,
    created_before: BeforeOption = None,
    limit: LimitOption = 20,
    starting_after: AfterOption = None,
    json: Json = False,
) -> None:
    """List the orders of all buyers, the newest first."""
    asked = query(
        OrderQuery,
        status=status,
        sale_id=sale,
        user_id=user,
        product_id=product,
        of_sale=of_sale,
        replacement=replacement,
        created_from=created_from,
        created_before=created_before,
        limit=limit,
        starting_after=starting_after,
    )

    async def work(clients: Clients) -> OrderAdminPage:
        async with clients.database.transaction() as session:
            return await service.list_orders(session, asked)

    show(run(work), COLUMNS, as_json=json)


@app.command(name="show", epilog="Example: shop order show 00000001-9f3c-8d52-a1b0-3c5f0a7e6d21")
def show_(order: OrderArgument, json: Json = False) -> None:
    """Show one order as it is recorded."""

    async def work(clients: Clients) -> OrderAdminRead:
        async with clients.database.transaction() as session:
            return await service.read_order(session, order)

    emit(run(work), as_json=json)


@app.command(epilog="Example: shop order trail 00000001-9f3c-8d52-a1b0-3c5f0a7e6d21")
def trail(order: OrderArgument, json: Json = False) -> None:
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
