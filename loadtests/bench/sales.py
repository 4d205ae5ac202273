"""Sales for the rounds: each one new, loaded and known to the API, and forgotten when it was measured."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import update

from loadtests.bench.requests import idempotency_key, purchase_requests, user_id
from loadtests.bench.settings import HOST
from loadtests.bench.testbed import POLL_SECONDS, NotMeasured, Testbed
from loadtests.client.http import is_complete
from loadtests.client.purchases import purchase_path
from loadtests.judge.ledger import is_drained
from shop.auth import COMMAND_LINE
from shop.ledger import client as ledger
from shop.ledger.client import LastOrder, LoadedSale, RedisClock, ReserveRequest
from shop.ledger.keys import ledger_keys
from shop.ledger.order_ids import keyed_order_id
from shop.products import repository as products
from shop.sales import repository, service
from shop.sales.loading import loaded_sale
from shop.sales.models import Sale, SaleStatus
from shop.sales.schemas import SaleCreate

EPOCH = 1  # No sale of a bench is ever recovered.
LOAD_SECONDS_MAX = 30.0
DRAIN_SECONDS_MAX = 300.0
ANSWER_SECONDS_MAX = 5.0
READ_BYTES = 64 * 1024
FILL_BATCH = 256
# For the few sales that other parts make of the same product.
SPARE_STOCK = 1_000
FILL_SECONDS_MAX = 5.0
LASTS = timedelta(hours=6)
HOLD_SECONDS = 24 * 3600


async def prepare_sales(testbed: Testbed, units: Sequence[int]) -> None:
    """Open sales with so many units each, for `open_sales` to hand out. Raises NotMeasured.

    The worker runs afterwards. One unit of each sale was bought, to see that it is open.
    """
    testbed.start_worker()
    async with testbed.database.transaction() as session:
        product = await products.add(
            session, name="Golden Ticket", price_minor=990, currency="EUR", stock=sum(units) + SPARE_STOCK
        )
    sales = [(await schedule_sale(testbed, product.id, each), each) for each in units]
    for sale_id, each in sales:
        await _until_open(testbed, sale_id)
        testbed.prepared.setdefault(each, []).append(sale_id)


async def open_sales(testbed: Testbed, *, units: int, count: int = 1) -> list[int]:
    """New sales with so many units each, open in the API: prepared ones first. Raises NotMeasured."""
    prepared = testbed.prepared.setdefault(units, [])
    if len(prepared) < count:
        await prepare_sales(testbed, [units] * (count - len(prepared)))
    return [prepared.pop(0) for _ in range(count)]


async def schedule_sale(testbed: Testbed, product_id: int, units: int) -> int:
    """A new sale of a product, open from now on."""
    starts_at = datetime.now(UTC)
    wish = SaleCreate(
        product_id=product_id, name="Bench", units=units, hold_seconds=HOLD_SECONDS, starts_at=starts_at,
        ends_at=starts_at + LASTS,
    )  # fmt: skip
    async with testbed.database.transaction() as session:
        sale = await service.create(session, COMMAND_LINE, wish)
        await service.schedule(session, COMMAND_LINE, sale.id)
    return sale.id


async def _until_open(testbed: Testbed, sale_id: int) -> None:
    deadline = time.monotonic() + LOAD_SECONDS_MAX
    while not (answer := await purchase_answer(testbed, sale_id)).startswith(b"HTTP/1.1 202"):
        if time.monotonic() > deadline:
            raise NotMeasured(f"sale {sale_id} did not open: {answer.decode(errors='replace')}")
        await asyncio.sleep(POLL_SECONDS)


async def purchase_answer(testbed: Testbed, sale_id: int) -> bytes:
    """What the shop says to one new shopper, byte for byte; nothing when it does not say it in time."""
    port = testbed.ports["shop"]
    (request,) = purchase_requests(testbed.shoppers(1), host=HOST, port=port, path=purchase_path(sale_id))
    answer = b""
    reader, writer = await asyncio.open_connection(HOST, port)
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            writer.write(request)
            while not is_complete(answer) and (data := await reader.read(READ_BYTES)):
                answer += data
    writer.close()
    return answer


async def fill(testbed: Testbed, sale_id: int, orders: int) -> str:
    """Make orders in the ledger directly, in full batches; returns the name of those who bought.

    Raises NotMeasured when one is refused.
    """
    sale = loaded_sale(await row(testbed, sale_id))
    name, clock = testbed.new_name(), RedisClock()
    for start in range(0, orders, FILL_BATCH):
        requests = [_request(sale, name, number) for number in range(start, min(start + FILL_BATCH, orders))]
        answers = await ledger.reserve(
            testbed.redis, sale, requests, clock=clock, last=LastOrder(b"", 0), timeout=FILL_SECONDS_MAX
        )
        refused = {answer.word for answer in answers} - {"RESERVED"}
        if refused:
            raise NotMeasured(f"the ledger of sale {sale_id} answered {refused}")
    return name


def _request(sale: LoadedSale, name: str, number: int) -> ReserveRequest:
    buyer = user_id(name, number)
    return ReserveRequest(keyed_order_id(sale.sale_id, sale.salt, buyer, idempotency_key(name, number)), buyer, 1)


async def order_ids(testbed: Testbed, sale_id: int, name: str, orders: int) -> list[UUID]:
    """The ids of the orders that `fill` made under this name."""
    sale = loaded_sale(await row(testbed, sale_id))
    return [UUID(bytes=_request(sale, name, number).order_id) for number in range(orders)]


async def row(testbed: Testbed, sale_id: int) -> Sale:
    """The sale's row now."""
    async with testbed.database.transaction() as session:
        sale = await repository.find(session, sale_id)
    if sale is None:
        raise NotMeasured(f"sale {sale_id} has no row")
    return sale


async def until_drained(testbed: Testbed, sale_ids: Sequence[int]) -> None:
    """Return when everything that the ledgers of these sales have is recorded and trimmed. Raises NotMeasured."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    for sale_id in sale_ids:
        while not await _is_trimmed(testbed, sale_id):
            if time.monotonic() > deadline:
                raise NotMeasured(f"sale {sale_id} is not drained after {DRAIN_SECONDS_MAX:g} s")
            await asyncio.sleep(POLL_SECONDS)


async def _is_trimmed(testbed: Testbed, sale_id: int) -> bool:
    # The entry at the watermark is kept.
    kept = await testbed.redis.xlen(ledger_keys(sale_id, EPOCH).stream)
    return kept <= 1 and await is_drained(testbed.database, testbed.redis, sale_id)


async def forget(testbed: Testbed, sale_ids: Sequence[int]) -> None:
    """Let go of sales that were measured, drained or not, so that they burden no later round."""
    async with testbed.database.transaction() as session:
        await session.execute(update(Sale).where(Sale.id.in_(sale_ids)).values(status=SaleStatus.SETTLED))
    for sale_id in sale_ids:
        await ledger.drop(testbed.redis, sale_id, EPOCH)
