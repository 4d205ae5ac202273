"""The driver of the sales: it opens them, changes them as an admin while they sell, and closes them."""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from loadtests.torture.purchases import Purchase
from loadtests.torture.testbed import Testbed, Wrecked
from shop.auth import COMMAND_LINE
from shop.errors import SaleStateConflict
from shop.ledger.order_ids import keyed_order_id, uuid_text
from shop.products import repository as products
from shop.sales import repository, service
from shop.sales.schemas import SaleCreate

SALES_BESIDE_EACH_OTHER = 2
STOCK = 1_000_000_000
UNITS = (300, 2_000, 6_000)
HOLD_SECONDS = (4, 8, 12)
LIFE_SECONDS_MIN, LIFE_SECONDS_MAX = 20.0, 40.0
UNITS_PER_USER, ORDERS_PER_USER = 2, 3
# Far enough that a clock which is wrong by an hour neither opens nor ends a sale.
WINDOW = timedelta(hours=6)
CHANGE_EVERY_SECONDS = 0.4
CHANGE_SECONDS_MAX = 60.0
PAUSED_SECONDS = 0.15
RETRY_SECONDS = 0.1
REQUEST_SECONDS_MAX = 6.0
TAKEN = frozenset({200, 202})
TOLD = TAKEN | {409, 422}


@dataclass
class OnSale:
    """A sale and everything that was asked of it. `selling` ends when the admin closes it."""

    id: int
    salt: bytes
    opened_at: float
    closes_at: float
    selling: bool = True
    purchases: list[Purchase] = field(default_factory=list)

    def order_id_of(self, purchase: Purchase) -> str:
        """The one order that this purchase can be."""
        return uuid_text(keyed_order_id(self.id, self.salt, purchase.user_id, purchase.key))


class Driver:
    """The sales that are not over yet. `unchanging` keeps the admin from changing anything."""

    def __init__(self, testbed: Testbed, *, seed: int) -> None:
        self.sales: list[OnSale] = []
        self.unchanging = asyncio.Lock()
        self.opened = 0
        self.changes = 0
        self._testbed = testbed
        self._draw = random.Random(seed)  # noqa: S311 - it decides nothing that must be repeated
        self._keys = itertools.count(1)
        self._product_id = 0
        self._task: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(base_url=testbed.local.base_url, timeout=REQUEST_SECONDS_MAX)

    async def __aenter__(self) -> "Driver":
        async with self._testbed.database.transaction() as session:
            product = await products.add(session, name="Golden Ticket", price_minor=990, currency="EUR", stock=STOCK)
        self._product_id = product.id
        for _ in range(SALES_BESIDE_EACH_OTHER):
            await self._open()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def require_alive(self) -> None:
        """Raise what has ended the admin, if anything has."""
        if self._task is not None and self._task.done():
            self._task.result()

    @property
    def selling(self) -> list[OnSale]:
        """The sales that are open."""
        return [sale for sale in self.sales if sale.selling]

    def choose(self, draw: random.Random) -> OnSale | None:
        """One of the sales that are open."""
        open_ = self.selling
        return draw.choice(open_) if open_ else None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CHANGE_EVERY_SECONDS)
            async with self.unchanging:
                await self._change_something()

    async def _change_something(self) -> None:
        for sale in self.selling:
            if time.monotonic() > sale.closes_at:
                await self._ask(sale, "close")
                sale.selling = False
        if len(self.selling) < SALES_BESIDE_EACH_OTHER:
            await self._open()
            return
        sale = self._draw.choice(self.selling)
        match self._draw.randrange(4):
            case 0:
                await self._ask(sale, "stock", {"delta": self._draw.randrange(20, 200)})
            case 1:
                await self._ask(sale, "stock", {"delta": -self._draw.randrange(20, 200)})
            case 2:
                await self._ask(sale, "pause")
                await asyncio.sleep(PAUSED_SECONDS)
                # While the sale is recovered it is refused, and an admin asks again.
                await self._ask(sale, "resume", told=TAKEN)
            case _:
                return
        self.changes += 1

    async def _open(self) -> None:
        """Make a sale and schedule it; the ledger is loaded by the worker, which may take a while under torture."""
        testbed, draw = self._testbed, self._draw
        now = datetime.now(UTC)
        wish = SaleCreate(
            product_id=self._product_id,
            name="Torture",
            units=draw.choice(UNITS),
            units_per_user=UNITS_PER_USER,
            orders_per_user=ORDERS_PER_USER,
            hold_seconds=draw.choice(HOLD_SECONDS),
            starts_at=now - WINDOW,
            ends_at=now + WINDOW,
        )

        async def create() -> tuple[int, bytes]:
            async with testbed.database.transaction() as session:
                sale = await service.create(session, COMMAND_LINE, wish)
            return sale.id, sale.salt

        sale_id, salt = await testbed.until_answered(create)

        async def schedule() -> None:
            try:
                async with testbed.database.transaction() as session:
                    await service.schedule(session, COMMAND_LINE, sale_id)
            except SaleStateConflict:
                return  # The answer to the first try was lost.

        await testbed.until_answered(schedule)
        opened_at = time.monotonic()
        life = draw.uniform(LIFE_SECONDS_MIN, LIFE_SECONDS_MAX)
        self.sales.append(OnSale(sale_id, salt, opened_at, opened_at + life))
        self.opened += 1

    async def _ask(
        self, sale: OnSale, verb: str, body: dict[str, int] | None = None, *, told: frozenset[int] = TOLD
    ) -> None:
        """Ask for a change until this is the answer's status; each try has the same key. Raises Wrecked."""
        headers = {
            "Authorization": f"Bearer {self._testbed.admin_token}",
            "Idempotency-Key": f"torture-{verb}-{next(self._keys)}",
        }
        deadline = time.monotonic() + CHANGE_SECONDS_MAX
        words = "no answer"
        while time.monotonic() < deadline:
            try:
                answer = await self._client.post(f"/v1/admin/sales/{sale.id}/{verb}", headers=headers, json=body)
            except httpx.TransportError as error:
                words = repr(error)
            else:
                if answer.status_code in told:
                    return
                words = answer.text[:200]
            await asyncio.sleep(RETRY_SECONDS)
        raise Wrecked(f"{verb} of sale {sale.id} was not taken within {CHANGE_SECONDS_MAX:g} s: {words}")

    async def is_over(self, sale: OnSale) -> bool:
        """Whether a closed sale is settled, which is when nothing can come to it any more."""

        async def settled() -> bool:
            async with self._testbed.database.transaction() as session:
                row = await repository.find(session, sale.id)
            return row is not None and row.status == "settled"

        return not sale.selling and await self._testbed.until_answered(settled)
