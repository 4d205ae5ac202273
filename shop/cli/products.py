"""`shop product …`"""

from typing import Annotated

import typer

from shop.auth import COMMAND_LINE
from shop.bounds import ROW_ID_MAX
from shop.cache import Cache
from shop.cli.clients import Clients, Key, keyed, run
from shop.cli.output import Json, emit
from shop.idempotency.service import once
from shop.products import service
from shop.products.models import Product
from shop.products.schemas import AdminProductRead, ProductCreate, StockChange
from shop.redis import connect

app = typer.Typer(help="The catalogue.", no_args_is_help=True)


def add_to(shop: typer.Typer) -> None:
    """Register the commands of this module."""
    shop.add_typer(app, name="product")


@app.command(epilog='Example: shop product create "Golden Ticket" --price 990 --stock 1000')
def create(
    name: Annotated[str, typer.Argument(help="What the product is called.")],
    price: Annotated[int, typer.Option(min=0, help="Price in minor units (cents).")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "EUR",
    stock: Annotated[int, typer.Option(min=0, help="Units in stock.")] = 0,
    json: Json = False,
) -> None:
    """Add a product."""
    new = ProductCreate(name=name, price_minor=price, currency=currency, stock=stock)

    async def work(clients: Clients) -> AdminProductRead:
        cache = Cache(connect(clients.settings.side_redis_url, clients.settings), clients.settings)
        async with clients.database.transaction() as session:
            product = await service.create(session, cache, COMMAND_LINE, new)
        return _read(product)

    emit(run(work), as_json=json)


@app.command(epilog="Example: shop product stock 1 -- -5")
def stock(
    product: Annotated[int, typer.Argument(min=1, max=ROW_ID_MAX, help="The product's id.")],
    delta: Annotated[int, typer.Argument(help="Units more (positive) or fewer (negative, after `--`).")],
    key: Key = None,
    json: Json = False,
) -> None:
    """Move a product's stock by a difference."""
    change = StockChange(delta=delta)

    async def work(clients: Clients) -> AdminProductRead:
        cache = Cache(connect(clients.settings.side_redis_url, clients.settings), clients.settings)
        async with clients.database.transaction() as session:

            async def move() -> AdminProductRead:
                return _read(await service.move_stock(session, cache, COMMAND_LINE, product, change.delta))

            done = await once(session, asked, move)
        return AdminProductRead.model_validate_json(done.body)

    with keyed(key, "product", "stock", product, change.delta) as asked:
        emit(run(work), as_json=json)


def _read(product: Product) -> AdminProductRead:
    return AdminProductRead.model_validate(product)
