"""The one place that gives units back to sales: closed orders that are not released are the outbox of `release.lua`.

Ordinary orders are none of its business: no ledger knows them, and `shop.orders.life` releases those that it closes.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import redis.asyncio as aioredis
import structlog

from shop import metrics
from shop.database import Database
from shop.orders import repository
from shop.orders.models import Order
from shop.orders.repository import Owed
from shop.products import repository as products
from shop.redis import NotSent, OutcomeUnknown
from shop.sales import repository as sales
from shop.sales.models import SaleStatus
from shop.seckill import ledger
from shop.settings import Settings

log = structlog.get_logger(__name__)


def owed_to_sales(orders: Iterable[Order]) -> list[Owed]:
    """What those of these orders that are closed owe to the ledgers of sales."""
    return [
        Owed(order.id, order.sale_id, order.seq)
        for order in orders
        if order.closed_at is not None
        and order.released_at is None
        and order.sale_id is not None
        and order.seq is not None
    ]


async def release(database: Database, client: aioredis.Redis, owed: Sequence[Owed], settings: Settings) -> int:
    """Give the units of these closed orders back; returns how many orders gave theirs now.

    Called right after the commit that closed them and by the sweep. Twice is harmless, and what fails is left to the
    next sweep: the rows stay owed until the event of the release is drained.
    """
    by_sale: dict[int, list[Owed]] = defaultdict(list)
    for order in owed:
        by_sale[order.sale_id].append(order)
    async with database.transaction() as session:
        found = {sale_id: await sales.find(session, sale_id) for sale_id in by_sale}
    released = 0
    for sale_id, orders in by_sale.items():
        sale = found[sale_id]
        if sale is not None and sale.status == SaleStatus.SETTLED:
            released += await _release_to_stock(database, sale_id, orders)
            continue
        for start in range(0, len(orders), settings.release_batch_max):
            batch = orders[start : start + settings.release_batch_max]
            if sale is not None:
                released += await _release_batch(client, sale_id, sale.epoch, batch, settings)
    metrics.RELEASED.inc(released)
    return released


async def _release_to_stock(database: Database, sale_id: int, orders: Sequence[Owed]) -> int:
    """The ledger of a settled sale is gone: what it still owed (a refund with restock) is the product's at once."""
    async with database.transaction() as session:
        sale = await sales.lock(session, sale_id)
        units_of = await repository.mark_released(session, [order.order_id for order in orders])
        units = sum(units_of.values())
        if sale is not None and units:
            sale.units_taken -= units
            sale.units -= units
            await products.give_stock(session, sale.product_id, units)
    return len(units_of)


async def _release_batch(
    client: aioredis.Redis, sale_id: int, epoch: int, orders: Sequence[Owed], settings: Settings
) -> int:
    pairs = [(order.order_id.bytes, order.seq) for order in orders]
    try:
        answers = await ledger.release(client, sale_id, epoch, pairs, timeout=settings.redis_timeout_seconds)
    except (NotSent, OutcomeUnknown) as error:
        log.warning("release_waits", sale_id=sale_id, orders=len(orders), reason=str(error))
        return 0
    words = [answer.word for answer in answers]
    for order, word in zip(orders, words, strict=True):
        if word not in {"RELEASED", "ALREADY"}:
            log.error("release_refused", sale_id=sale_id, order_id=str(order.order_id), answer=word)
    return words.count("RELEASED")


async def sweep(database: Database, client: aioredis.Redis, settings: Settings) -> int:
    """Release what an interrupted process left owed; bounded, so that one run always ends."""
    released = 0
    for _ in range(settings.release_sweep_batches_max):
        async with database.transaction() as session:
            owed = await repository.owed(session, limit=settings.release_batch_max)
        given = await release(database, client, owed, settings)
        released += given
        if given == 0:
            break
    return released
