"""The proof after a run: what the crowd was told, held against what Postgres has written down.

It reads and never writes, and believes neither side: a promise without a row is as wrong as a row without a promise.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.crowd.record import CrowdRecord, summarize
from shop.orders.models import Order, OrderLine
from shop.sales.models import Sale

ROWS_PER_FETCH = 10_000
SALE_ID_SHIFT = 96

INVARIANTS = {
    "I1": "no gap in the ledger",
    "I2": "every balance follows from the last",
    "I3": "units are conserved",
    "I4": "no oversell, by the rows",
    "I5": "no buyer above the limit",
    "I6": "every promise has its row",
    "I9": "no row without a promise",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of a run, and `ok` when every threshold holds. The JSON object of `shop demo` has these keys.

    From Postgres, at one moment after the drain:
    units          units on sale
    reserved       orders that hold a unit
    reservations   all orders ever made, released ones too
    persisted      units on the lines of the orders that hold a unit
    oversold       units of live orders beyond the units on sale

    From the crowd:
    shoppers       how many there were
    attempts       requests sent, those that got no answer too
    sold_out       shoppers whose final answer was that no unit, or too few, are left
    over_limit     shoppers whose final answer was that they have enough
    rate_limited   requests refused with 429
    errors         shoppers without a final answer, or refused for what no fair sale refuses
    attempts_per_second, reserve_p50_ms, reserve_p99_ms (None when nobody reserved)

    From both:
    lost           promised orders that have no row
    duplicated     clicks that were promised more than one order, and buyers who hold more units than one may
    """

    units: int
    shoppers: int
    attempts: int
    reserved: int
    reservations: int
    sold_out: int
    over_limit: int
    rate_limited: int
    errors: int
    persisted: int
    oversold: int
    lost: int
    duplicated: int
    attempts_per_second: float
    reserve_p50_ms: float | None
    reserve_p99_ms: float | None
    drain_seconds: float
    invariants: Mapping[str, bool]

    @property
    def ok(self) -> bool:
        return all(threshold.ok for threshold in thresholds(self))


class Threshold(NamedTuple):
    """A condition of a good run, whether it holds, and the figures to show beside it."""

    name: str
    ok: bool
    shown: str


class Row(NamedTuple):
    """An order of the sale as Postgres has it.

    `line_units` is the sum over its lines, `replaces` the order whose late money paid this one.
    """

    user_id: str
    units: int
    line_units: int
    live: bool
    replaces: str | None


async def verify(
    session: AsyncSession,
    *,
    sale_id: int,
    record: CrowdRecord,
    invariants: Mapping[str, bool],
    drain_seconds: float,
) -> Verdict:
    """Compare the rows of a sale with the record of its crowd; call it when the stream is drained.

    `invariants` are those of the audit. I6 must hold for the crowd's record too, and I9 only that can show. Raises
    sqlalchemy.exc.NoResultFound when there is no such sale.
    """
    sale = await session.get_one(Sale, sale_id)
    rows = await rows_of_sale(session, sale_id)
    live = {order_id: row for order_id, row in rows.items() if row.live}
    promises = {(a.order_id, a.user_id) for a in record.attempts if a.order_id is not None}
    promised = {order_id for order_id, _ in promises}
    doubtful = {attempt.user_id for attempt in record.attempts if attempt.unknown}
    crowd = summarize(record)
    return Verdict(
        units=sale.units,
        shoppers=crowd.shoppers,
        attempts=crowd.attempts,
        reserved=len(live),
        reservations=len(rows),
        sold_out=crowd.sold_out,
        over_limit=crowd.over_limit,
        rate_limited=crowd.rate_limited,
        errors=crowd.errors,
        persisted=sum(row.line_units for row in live.values()),
        oversold=max(0, sum(row.units for row in live.values()) - sale.units),
        lost=len(promised - rows.keys()),
        duplicated=_count_duplicated(record, live.values(), units_per_user=sale.units_per_user),
        attempts_per_second=crowd.attempts_per_second,
        reserve_p50_ms=crowd.reserve_p50_ms,
        reserve_p99_ms=crowd.reserve_p99_ms,
        drain_seconds=round(drain_seconds, 3),
        invariants={
            **invariants,
            "I6": invariants.get("I6", True)
            and all(_keeps(rows.get(order_id), user_id) for order_id, user_id in promises),
            "I9": all(row.user_id in doubtful or promised & {order_id, row.replaces} for order_id, row in live.items()),
        },
    )


async def rows_of_sale(session: AsyncSession, sale_id: int) -> dict[str, Row]:
    """Every order of a sale by its id. The ids of a sale lie together: their first 32 bits are the sale's."""
    first, last = UUID(int=sale_id << SALE_ID_SHIFT), UUID(int=((sale_id + 1) << SALE_ID_SHIFT) - 1)
    statement = (
        select(
            Order.id,
            Order.user_id,
            Order.quantity,
            func.coalesce(func.sum(OrderLine.quantity), 0),
            Order.released_at.is_(None),
            Order.replaces,
        )
        .outerjoin(OrderLine, OrderLine.order_id == Order.id)
        .where(Order.id.between(first, last))
        .group_by(Order.id)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    rows: dict[str, Row] = {}
    result = await session.stream(statement)
    async for fetched in result.partitions(ROWS_PER_FETCH):
        for order_id, user_id, units, line_units, live, replaces in fetched:
            rows[str(order_id)] = Row(user_id, units, line_units, live, str(replaces) if replaces else None)
    return rows


def thresholds(verdict: Verdict) -> list[Threshold]:
    """What a good run keeps, in the order in which a reader would ask."""
    sellable = min(verdict.units, verdict.shoppers - verdict.over_limit)
    return [
        Threshold("nothing oversold", verdict.oversold == 0, f"{verdict.oversold:,} units too many"),
        Threshold("no promised order lost", verdict.lost == 0, f"{verdict.lost:,} lost"),
        Threshold("no click sold twice", verdict.duplicated == 0, f"{verdict.duplicated:,} duplicated"),
        Threshold("every unit sold", verdict.reserved == sellable, f"{verdict.reserved:,} of {sellable:,}"),
        Threshold(
            "every unit on a row",
            verdict.persisted == verdict.reserved,
            f"{verdict.persisted:,} of {verdict.reserved:,}",
        ),
        Threshold("every shopper answered", verdict.errors == 0, f"{verdict.errors:,} errors"),
        *(
            Threshold(f"{name} {INVARIANTS.get(name, '')}".rstrip(), holds, "holds" if holds else "broken")
            for name, holds in verdict.invariants.items()
        ),
    ]


def _keeps(row: Row | None, user_id: str) -> bool:
    """Whether a promise was kept: to this user, with lines that add up. The primary key allows one row at most."""
    return row is not None and row.user_id == user_id and row.units == row.line_units


def _count_duplicated(record: CrowdRecord, live: Iterable[Row], *, units_per_user: int) -> int:
    """Count clicks (a user and a key, or a user without one) with several orders, and other users above the limit."""
    orders_of_click: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
    for attempt in record.attempts:
        if attempt.order_id is not None:
            orders_of_click[attempt.user_id, attempt.key].add(attempt.order_id)
    doubled = [click for click, order_ids in orders_of_click.items() if len(order_ids) > 1]
    units_of: Counter[str] = Counter()
    for row in live:
        units_of[row.user_id] += row.units
    above = {user_id for user_id, units in units_of.items() if units > units_per_user}
    return len(doubled) + len(above - {user_id for user_id, _ in doubled})
