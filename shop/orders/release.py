"""The one place that gives units back to sales: closed orders that are not released are the outbox of `release.lua`.

Ordinary orders are none of its business: no ledger knows them, and `shop.orders.life` releases those that it closes.
"""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeGuard

import redis.asyncio as aioredis
import structlog
from redis.exceptions import ResponseError

from shop import metrics
from shop.database import Database
from shop.failure_isolation import Isolation
from shop.ledger import client as ledger
from shop.orders import repository
from shop.orders.models import Order
from shop.orders.repository import Cursor, Moved, Owed
from shop.products import repository as products
from shop.redis import NotSent, OutcomeUnknown
from shop.sales import repository as sales
from shop.sales.repository import LedgerName
from shop.settings import Settings

WHOLE_BATCH = frozenset({"NOT_LOADED", "STALE_EPOCH", "SETTLED"})

log = structlog.get_logger(__name__)


def owed_to_sales(orders: Iterable[Order | Moved]) -> list[Owed]:
    """What those of these orders that are closed owe to the ledgers of sales."""
    return [
        Owed(order.id, order.sale_id, order.seq)
        for order in orders
        if order.closed_at is not None
        and order.released_at is None
        and order.sale_id is not None
        and order.seq is not None
    ]


async def release(
    database: Database,
    client: aioredis.Redis,
    owed: Sequence[Owed],
    settings: Settings,
    isolation: Isolation | None = None,
) -> int:
    """Give the units of these closed orders back; returns how many orders gave theirs now.

    Called right after the commit that closed them and by the sweep. Twice is harmless, and what fails is left to the
    next sweep: the rows stay owed until the event of the release is drained. A sale whose ledger does not answer is
    asked once, so that it does not hold up the others.
    """
    isolation = isolation or Isolation("release", settings)
    by_sale: dict[int, list[Owed]] = defaultdict(list)
    for order in owed:
        by_sale[order.sale_id].append(order)
    if not by_sale:
        return 0
    async with database.transaction() as session:
        ledgers = await sales.ledgers(session, by_sale)
    released = 0
    for sale_id, name in ledgers.items():
        orders = by_sale[sale_id]
        for start in range(0, len(orders), settings.release_batch_max):
            batch = orders[start : start + settings.release_batch_max]
            given = await _give_back(database, client, name, batch, settings, isolation)
            if given is None:
                break
            released += given
    metrics.RELEASED.inc(released)
    return released


async def _give_back(
    database: Database,
    client: aioredis.Redis,
    name: LedgerName,
    orders: Sequence[Owed],
    settings: Settings,
    isolation: Isolation,
) -> int | None:
    """How many orders gave their units back now; None when the ledger did not answer, or has no place for them.

    An order that makes the batch fail as nobody foresaw is left out.
    """

    async def give(some: Sequence[Owed]) -> list[int | None]:
        return [await _give_back_together(database, client, name, some, settings)]

    async def give_all() -> list[int | None]:
        return await isolation.together(orders, give)

    nothing: list[int | None] = [None]
    given = await isolation.attempt(("sale", name.sale_id), give_all, nothing)
    return None if None in given else sum(filter(None, given))


async def _give_back_together(
    database: Database, client: aioredis.Redis, name: LedgerName, orders: Sequence[Owed], settings: Settings
) -> int | None:
    """As `_give_back`, for all of them or for none.

    The ledger of a settled sale is gone: what is owed to it since then (a refund with restock) is the product's."""
    if not name.settled:
        return await _release_batch(client, name.sale_id, name.epoch, orders, settings)
    async with database.transaction() as session:
        sale = await sales.lock(session, name.sale_id)
        units_of = await repository.mark_released(session, [order.order_id for order in orders])
        units = sum(units_of.values())
        if sale is not None and units:
            sale.units_taken -= units
            sale.units -= units
            await products.give_stock(session, sale.product_id, units)
    return len(units_of)


async def _release_batch(
    client: aioredis.Redis, sale_id: int, epoch: int, orders: Sequence[Owed], settings: Settings
) -> int | None:
    pairs = [(order.order_id.bytes, order.seq) for order in orders]
    try:
        answers = await ledger.release(client, sale_id, epoch, pairs, timeout=settings.redis_timeout_seconds)
    except (NotSent, OutcomeUnknown) as error:
        if _is_about_one_order(error.__cause__):
            raise error.__cause__ from error
        log.warning("release_waits", sale_id=sale_id, orders=len(orders), reason=str(error))
        return None
    words = [answer.word for answer in answers]
    refused = Counter(words) - Counter({word: len(words) for word in ("RELEASED", "ALREADY")})
    for word in refused:
        example = orders[words.index(word)].order_id
        log.error("release_refused", sale_id=sale_id, order_id=str(example), orders=refused[word], answer=word)
    return None if refused and refused.keys() <= WHOLE_BATCH else words.count("RELEASED")


def _is_about_one_order(error: BaseException | None) -> TypeGuard[ResponseError]:
    """Whether the script has failed at what it found, and not for a key that is no part of a ledger at all."""
    return isinstance(error, ResponseError) and not str(error).startswith("WRONGTYPE") and "script" in str(error)


async def sweep(
    database: Database, client: aioredis.Redis, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Release what an interrupted process left owed; returns how many orders gave their units back.

    Bounded, so that one run always ends. The sales are swept round robin, so that one with a broken ledger and many
    orders does not stand before all the others.
    """
    isolation = isolation or Isolation("release", settings)
    async with database.transaction() as session:
        sale_ids = await repository.sales_that_owe(session)
    random.shuffle(sale_ids)  # there may be more of them than batches
    queue: deque[tuple[int, Cursor | None]] = deque((sale_id, None) for sale_id in sale_ids)
    released = 0
    nothing: tuple[int, Cursor | None] = (0, None)
    for _ in range(settings.release_sweep_batches_max):
        if not queue:
            break
        sale_id, after = queue.popleft()
        sweep_one = partial(_sweep_one, database, client, sale_id, after, settings, isolation)
        given, after = await isolation.attempt(sale_id, sweep_one, nothing)
        released += given
        if after is not None:
            queue.append((sale_id, after))
    metrics.RELEASED.inc(released)
    return released


async def _sweep_one(
    database: Database,
    client: aioredis.Redis,
    sale_id: int,
    after: Cursor | None,
    settings: Settings,
    isolation: Isolation,
) -> tuple[int, Cursor | None]:
    """One batch of a sale; and where its next one begins, if there is one and the ledger takes it."""
    async with database.transaction() as session:
        ledgers = await sales.ledgers(session, [sale_id])
        owed, after = await repository.owed(session, sale_id, limit=settings.release_batch_max, after=after)
    if not owed or sale_id not in ledgers:
        return 0, None
    given = await _give_back(database, client, ledgers[sale_id], owed, settings, isolation)
    return (0, None) if given is None else (given, after)
