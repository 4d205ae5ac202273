"""What the demo needs before it starts: the admin, the product, the shoppers of both waves, and the sale."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from loadtests.crowd.rush import read_tokens
from shop.auth import COMMAND_LINE, issue_token
from shop.database import Database
from shop.local import LocalShop
from shop.products import repository as products
from shop.sales import service
from shop.sales.schemas import SaleCreate
from shop.settings import Settings
from shop.users.models import Role
from shop.users.passwords import Passwords
from shop.users.service import make_shoppers, register

ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "a golden ticket"  # noqa: S105 - printed on purpose, for a shop that lives a minute
STARTS_IN_SECONDS = 1.5
LASTS_SECONDS = 3_600
PRICE_MINOR = 99_00
STATEMENT_SECONDS = 60
# The hold must outlast the rush and the payments; forgotten orders are waited for.
HOLD_SECONDS_MIN, UNITS_PER_HOLD_SECOND = 15, 40


@dataclass(frozen=True)
class Stage:
    """What was set up. `tokens` are files of `user_id token`, one for each wave."""

    sale_id: int
    tokens: Sequence[Path]
    admin_token: str
    shopper_token: str

    def token_of(self) -> dict[str, str]:
        """The token of each shopper by user id."""
        return {user_id: token for file in self.tokens for user_id, token in read_tokens(file)}


def hold_seconds(units: int) -> int:
    """How long an order of the demo waits for its payment."""
    return max(HOLD_SECONDS_MIN, units // UNITS_PER_HOLD_SECOND)


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    """A small connection of the demo's own."""
    database = Database(settings, application_name="shop-demo", pool_max=2, statement_seconds=STATEMENT_SECONDS)
    try:
        yield database
    finally:
        await database.close()


async def set_up(shop: LocalShop, *, units: int, waves: Sequence[int]) -> Stage:
    """Make everything through the same services as the API."""
    settings, passwords = shop.settings, Passwords(shop.settings)
    async with database_of(settings) as database:
        async with database.transaction() as session:
            admin = await register(session, passwords, email=ADMIN_EMAIL, password=ADMIN_PASSWORD, role=Role.ADMIN)
            product = await products.add(
                session, name="Golden Ticket", price_minor=PRICE_MINOR, currency="EUR", stock=units
            )
            shoppers = await make_shoppers(session, sum(waves))
        signed = [(user_id, issue_token(settings, user_id=user_id, role=Role.SHOPPER)) for user_id in shoppers]
        tokens = [_write_tokens(shop.directory / f"tokens-{n}.txt", signed[sum(waves[:n]) :][: waves[n]])
                  for n in range(len(waves))]  # fmt: skip
        async with database.transaction() as session:
            starts_at = datetime.now(UTC) + timedelta(seconds=STARTS_IN_SECONDS)
            wish = SaleCreate(
                product_id=product.id,
                name="Golden Ticket flash sale",
                units=units,
                hold_seconds=hold_seconds(units),
                starts_at=starts_at,
                ends_at=starts_at + timedelta(seconds=LASTS_SECONDS),
            )
            sale = await service.create(session, COMMAND_LINE, wish)
            await service.schedule(session, COMMAND_LINE, sale.id)
    passwords.close()
    admin_token = issue_token(settings, user_id=admin.id, role=Role.ADMIN)
    return Stage(sale.id, tokens, admin_token, signed[0][1])


def _write_tokens(path: Path, signed: Sequence[tuple[str, str]]) -> Path:
    path.touch(mode=0o600)
    path.write_text("".join(f"{user_id} {token}\n" for user_id, token in signed))
    return path
