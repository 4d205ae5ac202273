"""What a repeat of a purchase says of its order when Postgres cannot be asked."""

from uuid import uuid4

from shop.database import Database
from shop.orders.repeats import Statuses
from shop.settings import Settings

NOBODY = "postgresql+asyncpg://shop@127.0.0.1:1/shop"


async def test_without_postgres_nothing_is_known_of_the_orders_row(settings: Settings) -> None:
    """The lane then says what the ledger knows: `held`, paid or not, or `released`."""
    away = Database(settings.model_copy(update={"database_url": NOBODY}), application_name="shop-tests")

    assert await Statuses(away).status_of(str(uuid4())) is None

    await away.close()
