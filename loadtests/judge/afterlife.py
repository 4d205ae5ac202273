"""The proof after the orders' whole life: units and money, held against the rows, the ledger and the provider's books.

It reads and never writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.crowd.record import CrowdSummary
from loadtests.judge.invariants import Threshold, threshold_of
from loadtests.judge.ledger import released_wrongly
from loadtests.judge.retries import Retries
from loadtests.judge.verify import Verdict
from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order, OrderStatus
from shop.payments.service import money_report
from shop.payments.totals.repository import Money, money
from shop.sales.models import Sale

# What only this proof knows; it tells the others once more.
INVARIANTS = ("I7", "I8", "I11")


@dataclass(frozen=True, slots=True)
class Afterlife:
    """The figures when nothing is under way any more; `shop demo` adds them to those of the sale.

    paid, refunded, expired, cancelled   orders of the sale by what has become of them
    returned                             units that came back before the second wave
    resold                               units that the second wave got
    currency                             of all sums below
    captured_minor, paid_minor, refunded_minor   the money, by the shop's rows
    provider_captured_minor, provider_refunded_minor   the same, by the provider's books
    late_customers                       came after their hold, which a slow machine may make them
    expired_early                        orders that the shop expired before their hold was over
    retried, retries_found               promises that were asked for again at the end, and those that found their order
    """

    paid: int
    refunded: int
    expired: int
    cancelled: int
    returned: int
    resold: int
    second_wave: int
    currency: str
    captured_minor: int
    paid_minor: int
    refunded_minor: int
    provider_captured_minor: int
    provider_refunded_minor: int
    failed_customers: int
    late_customers: int
    expired_early: int
    retried: int
    retries_found: int
    invariants: Mapping[str, bool]

    @property
    def ok(self) -> bool:
        return all(threshold.ok for threshold in thresholds(self))


async def statuses(session: AsyncSession, sale_id: int) -> dict[str, int]:
    """How many orders of a sale have each status."""
    query = select(Order.status, func.count()).where(_of_sale(sale_id)).group_by(Order.status)
    return {status: count for status, count in await session.execute(query)}  # noqa: C416 - rows are not pairs to dict()


async def live_orders(session: AsyncSession, sale_id: int, statuses: Sequence[OrderStatus]) -> list[tuple[str, str]]:
    """The orders of a sale with such a status that hold units, with their buyers."""
    held = (Order.status.in_(statuses), Order.released_at.is_(None))
    query = select(Order.id, Order.user_id).where(_of_sale(sale_id), *held)
    return [(str(order_id), user_id) for order_id, user_id in await session.execute(query.order_by(Order.id))]


async def unfinished(session: AsyncSession, sale_id: int, *, held: bool) -> int:
    """How many orders of a sale owe their units; with `held`, those that still wait for a payment count too."""
    owed = Order.closed_at.is_not(None) & Order.released_at.is_(None)
    return await _count(session, sale_id, or_(owed, Order.status == OrderStatus.RESERVED) if held else owed)


async def prove(
    session: AsyncSession,
    *,
    sale_id: int,
    returned: int,
    both: Verdict,
    second: CrowdSummary,
    provider: Mapping[str, Any],
    customers: Mapping[str, int],
    retries: Retries,
) -> Afterlife:
    """Count orders, units and money.

    `both` is the verdict on both waves together, `provider` its summary, `customers` what the buyers came to.
    """
    found = await statuses(session, sale_id)
    sums = await money_of_sale(session, sale_id)
    (report,) = money_report([sums]).data
    return Afterlife(
        paid=found.get(OrderStatus.PAID, 0),
        refunded=found.get(OrderStatus.REFUNDED, 0),
        expired=found.get(OrderStatus.EXPIRED, 0),
        cancelled=found.get(OrderStatus.CANCELLED, 0),
        returned=returned,
        resold=second.reserved,
        second_wave=second.shoppers,
        currency=report.currency,
        captured_minor=report.captured_minor,
        paid_minor=report.paid_minor,
        refunded_minor=report.refunded_minor,
        provider_captured_minor=provider["captured_minor"],
        provider_refunded_minor=provider["refunded_minor"],
        failed_customers=customers.get("failed", 0),
        late_customers=customers.get("late", 0),
        expired_early=await expired_early(session, sale_id),
        retried=retries.retried,
        retries_found=retries.found,
        invariants={
            **both.invariants,
            "I7": retries.hold,
            "I8": await released_wrongly(session, sale_id) == 0,
            "I11": report.balanced
            and report.unsettled_minor == report.refund_pending_minor == 0
            and same_books(sums, provider),
        },
    )


async def money_of_sale(session: AsyncSession, sale_id: int) -> Money:
    """All money of the shop in the currency of this sale, which is the provider's only one."""
    currency = (await session.execute(select(Sale.currency).where(Sale.id == sale_id))).scalar_one()
    nothing = Money(currency, 0, 0, 0, 0, 0, 0, 0)
    return next((each for each in await money(session) if each.currency == currency), nothing)


def same_books(sums: Money, provider: Mapping[str, Any]) -> bool:
    """Whether the shop and the provider have written down the same money."""
    return (sums.captured, sums.refunded) == (provider["captured_minor"], provider["refunded_minor"])


async def expired_early(session: AsyncSession, sale_id: int) -> int:
    """Orders of a sale whose hold was cut short."""
    early = (Order.status == OrderStatus.EXPIRED) & (Order.closed_at < Order.expires_at)
    return await _count(session, sale_id, early)


def thresholds(after: Afterlife) -> list[Threshold]:
    """What holds after a good afterlife."""
    sellable = min(after.returned, after.second_wave)
    still = [name for name in after.invariants if name not in INVARIANTS]
    broken = [name for name in still if not after.invariants[name]]
    return [
        Threshold("every returned unit sold again", after.resold == sellable, f"{after.resold:,} of {sellable:,}"),
        Threshold("every customer served", after.failed_customers == 0, f"{after.failed_customers:,} failed"),
        Threshold("no hold cut short", after.expired_early == 0, f"{after.expired_early:,} expired early"),
        Threshold(f"{', '.join(still)} hold still", not broken, f"broken: {', '.join(broken)}" if broken else "hold"),
        *(threshold_of(name, holds=after.invariants[name]) for name in INVARIANTS),
    ]


def _of_sale(sale_id: int) -> ColumnElement[bool]:
    ids = ids_of_sale(sale_id)
    return Order.id.between(ids.first, ids.last)


async def _count(session: AsyncSession, sale_id: int, which: ColumnElement[bool]) -> int:
    query = select(func.count()).where(_of_sale(sale_id), which)
    return int((await session.execute(query)).scalar_one())
