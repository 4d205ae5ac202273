"""`shop payment …`"""

from typing import Annotated
from uuid import UUID

import typer

from shop.cli.clients import Clients, run
from shop.cli.listing import AfterOption, BeforeOption, FromOption, LimitOption, query, show
from shop.cli.output import Json
from shop.payments.listing.schemas import PaymentAdminPage, PaymentQuery
from shop.payments.listing.service import list_payments
from shop.payments.models import PaymentStatus

COLUMNS = ("order_id", "status", "user_id", "amount_minor", "currency", "captured_at", "refund_status", "created_at")

app = typer.Typer(help="Payments.", no_args_is_help=True)


def add_to(shop: typer.Typer) -> None:
    """Register the commands of this module."""
    shop.add_typer(app, name="payment")


@app.callback()
def payments() -> None:
    """Payments."""


@app.command(name="list", epilog="Example: shop payment list --unsettled")
def list_(
    status: Annotated[PaymentStatus | None, typer.Option(help="Only payments in this state.")] = None,
    order: Annotated[UUID | None, typer.Option(help="The payment of this order.")] = None,
    user: Annotated[str | None, typer.Option(help="Only payments of this account, by its id.")] = None,
    currency: Annotated[str | None, typer.Option(help="Only payments in this currency.")] = None,
    unsettled: Annotated[bool | None, typer.Option(help="Whether its money is no order's and no refund's.")] = None,
    mismatch: Annotated[bool, typer.Option("--mismatch", help="Of which the provider told something else.")] = False,
    created_from: FromOption = None,
    created_before: BeforeOption = None,
    limit: LimitOption = 20,
    starting_after: AfterOption = None,
    json: Json = False,
) -> None:
    """List the payments of all orders, the newest first."""
    asked = query(
        PaymentQuery,
        status=status,
        order_id=order,
        user_id=user,
        currency=currency,
        unsettled=unsettled,
        mismatch=mismatch or None,
        created_from=created_from,
        created_before=created_before,
        limit=limit,
        starting_after=starting_after,
    )

    async def work(clients: Clients) -> PaymentAdminPage:
        async with clients.database.transaction() as session:
            return await list_payments(session, asked)

    show(run(work), COLUMNS, as_json=json, cursor="order_id")
