"""The trail of one order: what the ledger in Redis has of it, and every row of Postgres that tells of it.

Redis is asked first and alone, so that no transaction waits for it; the rows are then all of one moment.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import redis.asyncio as aioredis
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database, see_one_moment
from shop.errors import NotReady, OrderNotFound
from shop.ledger import client as ledger
from shop.ledger import stream
from shop.ledger.client import LedgerOrder
from shop.ledger.events import LedgerEvent, UnreadableEvent, parse_event
from shop.ledger.order_ids import SALE_ID_MAX, replacing_order_id, sale_of
from shop.notifications.collecting.happenings import notification_id
from shop.notifications.kinds import ORDER_KINDS
from shop.orders import repository as orders
from shop.orders.models import Order, OrderStatus
from shop.orders.placing import NO_SALE
from shop.payments.matching import replacement_id
from shop.payments.models import Payment
from shop.redis import CONNECTION_ERRORS
from shop.sales import repository as sales
from shop.sales.models import LedgerPosition, Sale, SaleStatus
from shop.support.trail import entries, repository
from shop.support.trail.schemas import LedgerHolding, OrderRow, OrderTrail, Source, TrailEntry


class _InRedis(NamedTuple):
    """What the ledger has of an order: its entry, and its event if that is still in the stream."""

    asked: bool
    epoch: int = 0
    entry: LedgerOrder | None = None
    event: LedgerEvent | None = None


async def trail(database: Database, client: aioredis.Redis, order_id: UUID) -> OrderTrail:
    """Everything that happened to this order.

    Raises OrderNotFound when nobody knows it, NotReady when only Redis could and does not answer.
    """
    sale_id = sale_of(order_id)
    async with database.transaction() as session:
        sale = await sales.find(session, sale_id) if 0 < sale_id <= SALE_ID_MAX else None
    in_redis = _InRedis(asked=True) if sale is None else await _in_redis(client, sale, order_id)
    async with database.transaction() as session:
        await see_one_moment(session)
        order = await orders.find_any(session, order_id)
        found, more = await _of_sale(session, sale, order_id, order, in_redis)
        replacement = None if order is None else await _replacement(session, order, sale)
        if order is not None:
            of_order, more_of_order = await _of_order(session, order)
            found, more = [*found, *of_order], [*more, *more_of_order]
    if not found and in_redis.entry is None:
        raise OrderNotFound if in_redis.asked else NotReady("The ledger cannot be asked at the moment")
    return OrderTrail(
        order_id=order_id,
        sale_id=None if sale is None else sale.id,
        row=_row(order, replacement),
        ledger=_holding(in_redis),
        ledger_asked=in_redis.asked,
        entries=sorted(found, key=lambda entry: entry.at),
        more=more,
    )


async def _in_redis(client: aioredis.Redis, sale: Sale, order_id: UUID) -> _InRedis:
    if sale.epoch == 0 or sale.status == SaleStatus.SETTLED:
        return _InRedis(asked=True)
    try:
        entry = await ledger.find_order(client, sale.id, sale.epoch, order_id.bytes)
        found = [] if entry is None else await stream.events_from(client, sale.id, sale.epoch, entry.seq, 1)
        event = parse_event(*found[0]) if found else None
    except CONNECTION_ERRORS:
        return _InRedis(asked=False)
    except UnreadableEvent:
        event = None
    except ValueError:  # an entry that no script of the shop has written
        return _InRedis(asked=True)
    return _InRedis(True, sale.epoch, entry, event if event is not None and event.order_id == order_id else None)


async def _of_sale(
    session: AsyncSession, sale: Sale | None, order_id: UUID, order: Order | None, in_redis: _InRedis
) -> tuple[list[TrailEntry], list[Source]]:
    """What the ledger did, and what recoveries did about it."""
    if sale is None:
        return [], []
    claims, more = await repository.claims(session, sale.id, order_id)
    positions = {LedgerPosition(claim.epoch, claim.seq) for claim in claims}
    if order is not None and order.epoch is not None and order.seq is not None:
        positions.add(LedgerPosition(order.epoch, order.seq))
    if in_redis.entry is not None:
        positions.add(LedgerPosition(in_redis.epoch, in_redis.entry.seq))
    rows = await repository.ledger_rows(session, sale.id, order_id, positions)
    found = [*entries.of_ledger(rows), *entries.of_claims(claims)]
    event = in_redis.event
    if event is not None and (in_redis.epoch, event.seq) not in {(row.epoch, row.seq) for row in rows}:
        found.append(entries.of_stream(event, in_redis.epoch))
    return found, [Source.RECOVERY] if more else []


async def _of_order(session: AsyncSession, order: Order) -> tuple[list[TrailEntry], list[Source]]:
    """What became of a recorded order, of its money and of those who are told."""
    moves, more_moves = await repository.events(session, order.id)
    payments = await repository.payments(session, order.id)
    refunds = await repository.refunds(session, [payment.order_id for payment in payments])
    told, more_told = await repository.provider_events(session, _intents(payments))
    made = await repository.notifications(session, [notification_id(kind, order.id) for kind in ORDER_KINDS])
    deliveries, more_deliveries = await repository.deliveries(session, list(made))
    by_admins, more_by_admins = await repository.admin_events(session, order.id)
    found = [
        *entries.of_order(order, moves),
        *entries.of_payments(payments),
        *entries.of_refunds(refunds),
        *entries.of_provider(told),
        *entries.of_notifications(made, deliveries),
        *entries.of_admins(by_admins),
    ]
    more = {
        Source.ORDER: more_moves,
        Source.PROVIDER: more_told,
        Source.NOTIFICATION: more_deliveries,
        Source.ADMIN: more_by_admins,
    }
    return found, [source for source, has_more in more.items() if has_more]


def _intents(payments: Sequence[Payment]) -> list[str]:
    return [payment.intent_id for payment in payments if payment.intent_id is not None]


async def _replacement(session: AsyncSession, order: Order, sale: Sale | None) -> Order | None:
    """The order that late money bought instead of this expired one. Its id follows from this one's."""
    if order.status != OrderStatus.EXPIRED:
        return None
    if sale is not None:
        found = await orders.find_any(session, replacement_id(order, sale))
    else:
        salt = await orders.ordinary_salt(session)
        found = await orders.find_any(session, UUID(bytes=replacing_order_id(NO_SALE, salt, order.user_id, order.id)))
    return found if found is not None and found.replaces == order.id else None


def _row(order: Order | None, replacement: Order | None) -> OrderRow | None:
    if order is None:
        return None
    row = OrderRow.model_validate(order)
    return row if replacement is None else row.model_copy(update={"replaced_by": replacement.id})


def _holding(in_redis: _InRedis) -> LedgerHolding | None:
    entry = in_redis.entry
    if entry is None:
        return None
    return LedgerHolding(
        epoch=in_redis.epoch,
        seq=entry.seq,
        quantity=entry.quantity,
        reserved_at=datetime.fromtimestamp(entry.reserved_ms / 1000, UTC),
        status="held" if entry.held else "released",
    )
