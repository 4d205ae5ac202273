"""`shop sale …`"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.audit.schemas import AuditReport
from shop.audit.service import audit_sale
from shop.auth import COMMAND_LINE
from shop.bounds import ROW_ID_MAX
from shop.cli.arguments import Time
from shop.cli.clients import Clients, Key, keyed, run
from shop.cli.listing import LimitOption, show
from shop.cli.output import Json, emit, warn
from shop.cli.unreachable import SERVER_ERRORS
from shop.errors import SaleNotFound
from shop.ledger.order_ids import SALE_ID_MAX
from shop.orders import poison
from shop.sales import phase, repository, service
from shop.sales.changes import ChangeOutOfOrder, outcome_of
from shop.sales.incidents import demand
from shop.sales.loading import LedgerLost, load
from shop.sales.models import SaleChange
from shop.sales.schemas import ChangeRead, SaleAdminPage, SaleAdminRead, SaleCreate, UnitsChange, WindowChange

SECONDS_MAX = 10 * 366 * 24 * 3600


COLUMNS = ("id", "name", "phase", "units", "units_taken", "price_minor", "currency", "starts_at", "ends_at")

SaleArgument = Annotated[int, typer.Argument(min=1, max=SALE_ID_MAX, help="The sale's id.")]

app = typer.Typer(help="Sales, from draft to audit.", no_args_is_help=True)


def add_to(shop: typer.Typer) -> None:
    """Register the commands of this module."""
    shop.add_typer(app, name="sale")


@app.command(epilog="Example: shop sale create --product 1 --units 1000 --starts-in 60 --lasts 600")
def create(
    product: Annotated[int, typer.Option(min=1, max=ROW_ID_MAX, help="The product's id.")],
    units: Annotated[int, typer.Option(min=1, help="Units on sale.")],
    name: Annotated[str, typer.Option(help="What the sale is called.")] = "Flash sale",
    price: Annotated[int | None, typer.Option(min=0, help="Price in minor units; the product's if not given.")] = None,
    units_per_user: Annotated[int, typer.Option(min=1)] = 1,
    orders_per_user: Annotated[int, typer.Option(min=1)] = 10,
    hold_seconds: Annotated[int, typer.Option(min=1, help="How long a reservation waits for payment.")] = 900,
    starts_in: Annotated[float, typer.Option(min=0, max=SECONDS_MAX, help="Seconds from now until it opens.")] = 60,
    lasts: Annotated[float, typer.Option(min=0.001, max=SECONDS_MAX, help="Seconds that it is open.")] = 3600,
    json: Json = False,
) -> None:
    """Make a draft."""
    starts_at = datetime.now(UTC) + timedelta(seconds=starts_in)
    wish = SaleCreate(
        product_id=product,
        name=name,
        units=units,
        price_minor=price,
        units_per_user=units_per_user,
        orders_per_user=orders_per_user,
        hold_seconds=hold_seconds,
        starts_at=starts_at,
        ends_at=starts_at + timedelta(seconds=lasts),
    )

    async def work(clients: Clients) -> SaleAdminRead:
        async with clients.database.transaction() as session:
            sale = await service.create(session, COMMAND_LINE, wish)
            return phase.admin_read(sale, await repository.database_time(session))

    emit(run(work), as_json=json)


@app.command(name="list", epilog="Example: shop sale list --limit 5")
def list_(
    limit: LimitOption = 20,
    starting_after: Annotated[
        int | None, typer.Option(min=1, max=SALE_ID_MAX, help="The last id of the page before.")
    ] = None,
    json: Json = False,
) -> None:
    """List all sales, drafts too, the newest first."""

    async def work(clients: Clients) -> SaleAdminPage:
        async with clients.database.transaction() as session:
            sales = await repository.page(session, limit=limit + 1, starting_after=starting_after)
            now = await repository.database_time(session)
        return SaleAdminPage(data=[phase.admin_read(each, now) for each in sales[:limit]], has_more=len(sales) > limit)

    show(run(work), COLUMNS, as_json=json)


@app.command(name="show", epilog="Example: shop sale show 1")
def show_(sale: SaleArgument, json: Json = False) -> None:
    """Show one sale with everything."""

    async def work(clients: Clients) -> SaleAdminRead:
        async with clients.database.transaction() as session:
            found = await repository.find(session, sale)
            if found is None:
                raise SaleNotFound
            return phase.admin_read(found, await repository.database_time(session))

    emit(run(work), as_json=json)


@app.command()
def schedule(sale: SaleArgument, json: Json = False) -> None:
    """Take the units out of the product's stock; the sale opens and ends by itself."""

    async def work(clients: Clients) -> SaleAdminRead:
        async with clients.database.transaction() as session:
            scheduled = await service.schedule(session, COMMAND_LINE, sale)
            read = phase.admin_read(scheduled, await repository.database_time(session))
        try:
            await load(clients.database, clients.ledger, scheduled, clients.settings)
        except (LedgerLost, DBAPIError, *SERVER_ERRORS) as error:
            warn(f"it is scheduled; the ledger is not loaded yet, the worker will do it: {error!r}")
        return read

    emit(run(work), as_json=json)


@app.command(epilog="Example: shop sale window 1 --ends-at 2030-01-01T12:00:00")
def window(sale: SaleArgument, starts_at: Time = None, ends_at: Time = None, json: Json = False) -> None:
    """Move the window; the start only before it."""
    window = WindowChange(starts_at=starts_at, ends_at=ends_at)
    _change(lambda session: service.change_window(session, COMMAND_LINE, sale, **window.model_dump()), json)


@app.command()
def pause(sale: SaleArgument, json: Json = False) -> None:
    """Refuse purchases until the sale is resumed."""
    _change(lambda session: service.pause(session, COMMAND_LINE, sale), json)


@app.command()
def resume(sale: SaleArgument, json: Json = False) -> None:
    """Sell again."""
    _change(lambda session: service.resume(session, COMMAND_LINE, sale), json)


@app.command()
def close(sale: SaleArgument, json: Json = False) -> None:
    """End the sale now; the unsold units go back to the product."""
    _change(lambda session: service.close(session, COMMAND_LINE, sale), json)


@app.command(epilog="Example: shop sale stock 1 -- -5")
def stock(
    sale: SaleArgument,
    delta: Annotated[int, typer.Argument(help="Units more (positive) or fewer (negative, after `--`).")],
    key: Key = None,
    json: Json = False,
) -> None:
    """Put units on sale or take some off, never below what is taken."""
    units = UnitsChange(delta=delta)

    async def ask(session: AsyncSession) -> SaleChange:
        change, _ = await service.change_units_once(session, COMMAND_LINE, sale, asked, delta=units.delta)
        return change

    with keyed(key, "sale", "stock", sale, delta) as asked:
        _change(ask, json)


@app.command()
def audit(sale: SaleArgument, json: Json = False) -> None:
    """Prove I1–I6 of a sale from Postgres and Redis; exit status 1 when one does not hold.

    What the worker's audit has found wrong is shown as well, with --json also what proves it.
    """
    report = run(lambda clients: audit_sale(clients.database, clients.ledger, sale))
    emit(report if json else _without_evidence(report), as_json=json)
    if not report.balanced:
        raise typer.Exit(1)


@app.command(epilog="Example: shop sale quarantine 1 4711")
def quarantine(
    sale: SaleArgument,
    seq: Annotated[int, typer.Argument(min=1, max=ROW_ID_MAX, help="The entry that the alarm names.")],
    json: Json = False,
) -> None:
    """Set a poisoned entry aside, so that what follows it is recorded; the worker then recovers the sale."""

    async def work(clients: Clients) -> dict[str, int | str]:
        row = await poison.quarantine(clients.database, clients.ledger, COMMAND_LINE, sale, seq)
        return {"sale_id": sale, "seq": row.seq, "kind": row.kind, "delta": row.delta, "balance": row.balance}

    emit(run(work), as_json=json)


@app.command()
def recover(sale: SaleArgument, json: Json = False) -> None:
    """Close the sale, compare its ledger with Postgres, and let it go on; the worker does it."""

    async def work(clients: Clients) -> dict[str, int | str]:
        begun = await demand.recover(clients.database, COMMAND_LINE, sale)
        return {"sale_id": sale, "recovery": begun.n, "epoch": begun.from_epoch, "step": begun.step.value}

    emit(run(work), as_json=json)


def _without_evidence(report: AuditReport) -> dict[str, object]:
    """The report for people: a finding is one line."""
    shown = report.model_dump(mode="json")
    found = [f"{each.created_at:%Y-%m-%d %H:%M:%S} UTC: {'; '.join(each.violations)}" for each in report.findings]
    return {**shown, "findings": found}


def _change(ask: Callable[[AsyncSession], Awaitable[SaleChange]], json: bool) -> None:
    """Commit a numbered change, then offer it to the ledger; without an outcome when the ledger does not answer."""

    async def work(clients: Clients) -> ChangeRead:
        async with clients.database.transaction() as session:
            change = await ask(session)
            sale = await repository.find(session, change.sale_id)
        epoch = sale.epoch if sale else 0
        try:
            change = await outcome_of(clients.database, clients.ledger, change, epoch, clients.settings)
        except (ChangeOutOfOrder, DBAPIError, *SERVER_ERRORS) as error:
            warn(f"change {change.n} is recorded, and the worker will apply it; do not repeat it: {error!r}")
        return ChangeRead.model_validate(change)

    emit(run(work), as_json=json)
