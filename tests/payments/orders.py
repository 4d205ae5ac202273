"""Orders to pay, and what a provider would tell about them."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import func, select, update

from shop.orders import repository as orders
from shop.orders.models import Order, OrderEvent, OrderStatus
from shop.payments import repository
from shop.payments.contract import Intent, ProviderEvent, ProviderRefund
from shop.payments.events import ingest
from shop.payments.models import Payment
from shop.payments.service import money_report
from shop.payments.totals.repository import money
from shop.sales.models import Sale
from tests.harness import Shop, new_user_id, wait_until

AT_ONCE = 50
MATCH_SECONDS = 60.0  # hundreds of late payments may have to be matched
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count(1)


async def bought(shop: Shop, sale: Sale, count: int) -> list[Order]:
    """So many orders of one unit, each by a buyer of its own, recorded, and each with a payment that is wanted."""
    ids: list[UUID] = []
    for start in range(0, count, AT_ONCE):
        made = await asyncio.gather(*(shop.bought(sale) for _ in range(min(AT_ONCE, count - start))))
        ids += [UUID(order_id) for order_id in made]
    await shop.drained(sale)
    async with shop.database.transaction() as session:
        found = {each.id: each for each in await session.scalars(select(Order).where(Order.id.in_(ids)))}
        for order in found.values():
            await repository.add_wanted(session, order)
    return [found[each] for each in ids]


async def one_bought(shop: Shop, sale: Sale, user_id: str | None = None) -> Order:
    """One recorded order of this buyer; its payment is not asked for."""
    answer = await shop.buys(sale, user_id or new_user_id())
    await shop.drained(sale)
    return await order_of(shop, UUID(answer.json()["id"]))


async def order_of(shop: Shop, order_id: UUID) -> Order:
    async with shop.database.transaction() as session:
        found = await orders.find_any(session, order_id)
    assert found is not None
    return found


async def payment_of(shop: Shop, order_id: UUID) -> Payment:
    async with shop.database.transaction() as session:
        found = await repository.find(session, order_id)
    assert found is not None
    return found


def intent_of(
    order: Order,
    *,
    captured: bool = False,
    refunded: bool = False,
    attempts: int = 0,
    status: Literal["open", "cancelled"] = "open",
    amount_minor: int | None = None,
    currency: str | None = None,
    intent_id: str | None = None,
) -> Intent:
    """The intent of an order as a provider would show it at some moment."""
    amount = order.total_minor if amount_minor is None else amount_minor
    return Intent(
        id=intent_id or f"pi_{order.id.hex}",
        order_id=str(order.id),
        amount_minor=amount,
        currency=currency or order.currency,
        status="captured" if captured else status,
        captured_minor=amount if captured else 0,
        refunded_minor=amount if refunded else 0,
        refunds=(ProviderRefund(id="re_1", key=str(order.id), amount_minor=amount),) if refunded else (),
        attempts=attempts,
        pay_url=f"http://provider.example/pay/pi_{order.id.hex}",
        created_at=LONG_AGO,
    )


def event_of(intent: Intent, kind: str = "payment.captured", event_id: str | None = None) -> ProviderEvent:
    """An event that tells of this intent, new unless it is named."""
    number = next(_numbers)
    return ProviderEvent(id=event_id or f"evt_{number:08d}", seq=number, type=kind, created_at=LONG_AGO, data=intent)


async def tell(shop: Shop, event: ProviderEvent) -> str:
    """Take an event as the webhook does; what became of it."""
    async with shop.database.transaction() as session:
        return await ingest(session, event)


async def pay(shop: Shop, order: Order) -> str:
    """The provider tells that the money of this order was captured."""
    return await tell(shop, event_of(intent_of(order, captured=True)))


async def make_due(shop: Shop, order_ids: Sequence[UUID]) -> None:
    """Let the hold of these orders run out now."""
    async with shop.database.transaction() as session:
        await session.execute(update(Order).where(Order.id.in_(order_ids)).values(expires_at=func.now()))


async def statuses(shop: Shop, order_ids: Sequence[UUID]) -> dict[UUID, OrderStatus]:
    async with shop.database.transaction() as session:
        rows = await session.execute(select(Order.id, Order.status).where(Order.id.in_(order_ids)))
        return {order_id: status for order_id, status in rows}  # noqa: C416 - rows are not pairs to dict()


async def moves(shop: Shop, order_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
    """What was done about each of these orders, in its order."""
    async with shop.database.transaction() as session:
        query = select(OrderEvent).where(OrderEvent.order_id.in_(order_ids)).order_by(OrderEvent.id)
        found: dict[UUID, list[str]] = {order_id: [] for order_id in order_ids}
        for event in await session.scalars(query):
            found[event.order_id].append(event.status)
        return found


async def balanced(shop: Shop, sale: Sale, *, live: int | None = None) -> None:
    """Return when the sale's ledger and the money add up (I1–I5, I8, I11) and nothing is under way any more."""

    async def matched() -> bool:
        async with shop.database.transaction() as session:
            report = money_report(await money(session))
            owed = select(func.count()).where(Order.sale_id == sale.id, Order.closed_at.is_not(None))
            waiting = (await session.execute(owed.where(Order.released_at.is_(None)))).scalar_one()
        assert report.balanced, report
        return waiting == 0 and not any(each.unsettled_minor for each in report.data)

    await wait_until(matched, within=MATCH_SECONDS, reason="all money is matched and all units are back")
    row = await shop.drained(sale)
    report = await shop.audit(sale)
    assert report.balanced, report.violations
    if live is not None:
        assert row.units_taken == live
