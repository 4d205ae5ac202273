"""Match captured payments that are nobody's yet: one buys its order, or a replacement for it, or goes back (I11).

A closed order never comes back. Money that comes after a cancellation is returned. Money that comes after expiry makes
a replacement order, whose id follows from the payment, so a second try finds the first: in a sale the expired order is
released first, then `reserve` decides under the ordinary rules, and what the persister has recorded is paid.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import redis.asyncio as aioredis
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.failure_isolation import Isolation
from shop.ledger import client as ledger
from shop.ledger.client import BATCH_WORDS, LastOrder, RedisClock, ReserveRequest
from shop.ledger.order_ids import replacing_order_id
from shop.orders import repository as orders
from shop.orders.life import By, move, note
from shop.orders.models import Order, OrderStatus
from shop.orders.placing import place_again
from shop.orders.release import owed_to_sales, release
from shop.payments import repository
from shop.payments.models import Payment
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown
from shop.sales import repository as sales
from shop.sales.loading import loaded_sale
from shop.sales.models import Sale, SaleStatus
from shop.settings import Settings

MATCHED_AT_ONCE = 8  # each has a connection of its own to Postgres, and the worker has others to serve
NO_ORDER = LastOrder(b"", 0)
# What says nothing about this request: the ledger is not there, or will take it a moment later.
TRY_AGAIN = frozenset({word.decode() for word in BATCH_WORDS} | {"BACKLOG"})

log = structlog.get_logger(__name__)


async def match_payments(
    database: Database, client: aioredis.Redis, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Match what can be matched now; returns how many payments were. The rest is tried again by a later run."""
    isolation = isolation or Isolation("matching", settings)
    async with database.transaction() as session:
        waiting = await repository.unmatched(session, limit=settings.payment_match_batch_max)
    matched = 0
    for start in range(0, len(waiting), MATCHED_AT_ONCE):
        together = waiting[start : start + MATCHED_AT_ONCE]
        tries = (  # The others' money does not wait for one that fails.
            isolation.attempt(each, partial(match_payment, database, client, each, settings), False)
            for each in together
        )
        matched += sum(await asyncio.gather(*tries))
    return matched


async def match_payment(database: Database, client: aioredis.Redis, payment_id: UUID, settings: Settings) -> bool:
    """Whether this payment's money has found its order or its refund."""
    async with database.transaction() as session:
        late = await _match_in_postgres(session, payment_id, settings)
    if late is None:
        return True
    order, sale = late
    if owed := owed_to_sales([order]):
        await release(database, client, owed, settings)
        if await _still_holds(client, order, sale):
            return False  # Its own units would be missing, and its buyer's limit.
    refused = await _reserve_again(client, order, sale, settings)
    if refused is None:
        return False
    async with database.transaction() as session:
        payment = await repository.lock(session, payment_id)
        if payment is not None and payment.settled_at is None:
            await _give_back(session, payment, refused)
    return True


async def _match_in_postgres(session: AsyncSession, payment_id: UUID, settings: Settings) -> tuple[Order, Sale] | None:
    """Match it here if rows alone can tell; else the expired order and its sale, whose ledger has to be asked."""
    payment = await repository.lock(session, payment_id)
    if payment is None or payment.settled_at is not None:
        return None
    order = await orders.lock(session, payment_id)
    if order.status == OrderStatus.RESERVED:
        await _pay(session, payment, order, reason="the payment was captured")
    elif order.status != OrderStatus.EXPIRED:
        await _give_back(session, payment, f"the order was {order.status}")
    elif order.sale_id is None:
        replacement = await place_again(session, order, hold_seconds=settings.order_hold_seconds)
        if replacement is None:
            await _give_back(session, payment, "the stock was gone")
        else:
            await _pay_replacement(session, payment, order, replacement)
    else:
        return await _match_in_sale(session, payment, order, order.sale_id)
    return None


async def _match_in_sale(
    session: AsyncSession, payment: Payment, order: Order, sale_id: int
) -> tuple[Order, Sale] | None:
    sale = await sales.find(session, sale_id)
    if sale is None:
        raise LookupError(f"order {order.id} names sale {sale_id}, which has no row")
    replacement = await orders.find_locked(session, replacement_id(order, sale))
    if replacement is None and sale.status != SaleStatus.SETTLED:
        return order, sale
    if replacement is None:
        await _give_back(session, payment, "the sale was over")
    elif replacement.status != OrderStatus.RESERVED or not _same_price(replacement, payment):
        await _give_back(session, payment, "the replacement could not be paid")
    else:
        await _pay_replacement(session, payment, order, replacement)
    return None


def replacement_id(order: Order, sale: Sale) -> UUID:
    """The id of the order that replaces an expired one of a sale."""
    return UUID(bytes=replacing_order_id(sale.id, sale.salt, order.user_id, order.id))


async def _still_holds(client: aioredis.Redis, order: Order, sale: Sale) -> bool:
    """Whether the ledger counts the units of an expired order as its own, or cannot be asked."""
    try:
        entry = await ledger.find_order(client, sale.id, sale.epoch, order.id.bytes)
    except CONNECTION_ERRORS as error:
        log.warning("late_money_waits", order_id=str(order.id), reason=str(error))
        return True
    return entry is not None and entry.held


async def _reserve_again(client: aioredis.Redis, order: Order, sale: Sale, settings: Settings) -> str | None:
    """Ask the ledger for the same units under the ordinary rules; returns why it refused.

    None when they are held, and are recorded in a moment, or when it could not be asked: then it is asked again.
    """
    wish = ReserveRequest(replacement_id(order, sale).bytes, order.user_id, order.quantity)
    clock, timeout = RedisClock(), settings.redis_timeout_seconds
    try:
        for _ in range(2):  # The first answer may be that our own clock is late; it sets this one right.
            (answer,) = await ledger.reserve(
                client, loaded_sale(sale), [wish], clock=clock, last=NO_ORDER, timeout=timeout
            )
            if answer.word != "LATE":
                break
    except (NotSent, OutcomeUnknown) as error:
        log.warning("late_money_waits", order_id=str(order.id), reason=str(error))
        return None
    if answer.word in TRY_AGAIN:
        log.warning("late_money_waits", order_id=str(order.id), reason=answer.word)
        return None
    if answer.word == "RESERVED":
        return None
    if answer.word == "REPLAYED" and answer.fields[-1] == "held":
        return None
    return f"nothing to be had: {answer.word.lower()}"


def _same_price(replacement: Order, payment: Payment) -> bool:
    return (replacement.total_minor, replacement.currency) == (payment.amount_minor, payment.currency)


async def _pay(session: AsyncSession, payment: Payment, order: Order, *, reason: str) -> None:
    """The order takes the money. It is locked, so nobody can have moved it since it was read."""
    moved: Sequence[Order] = await move(session, [order.id], OrderStatus.PAID, by=By.PROVIDER, reason=reason)
    if not moved:
        raise LookupError(f"order {order.id} is not {OrderStatus.RESERVED}, although it was locked")
    payment.paid_order_id, payment.settled_at = order.id, await sales.database_time(session)


async def _pay_replacement(session: AsyncSession, payment: Payment, expired: Order, replacement: Order) -> None:
    replacement.replaces = expired.id
    await session.flush()
    await _pay(session, payment, replacement, reason="the late payment of the order it replaces")
    await note(session, expired.id, "replaced", reason=f"late money: order {replacement.id}")


async def _give_back(session: AsyncSession, payment: Payment, reason: str) -> None:
    await repository.add_refund(session, payment, reason=reason)
    payment.settled_at = await sales.database_time(session)
    await note(session, payment.order_id, "money_returned", reason=reason)
