"""The proof after a run: what the crowd was told, held against what Postgres has written down.

It reads and never writes, and believes neither side.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.crowd.record import CrowdRecord, summarize
from loadtests.judge.invariants import Threshold, threshold_of
from loadtests.judge.promises import Click, above_limit, is_kept, oversold, promises, unexplained
from loadtests.judge.rows import Row, rows_of_sale
from shop.sales.models import Sale


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
    clicks = promises(record.attempts)
    promised = {order_id for order_ids in clicks.values() for order_id in order_ids}
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
        persisted=sum(row.line_quantity for row in live.values()),
        oversold=oversold(rows.values(), sale.units),
        lost=len(promised - rows.keys()),
        duplicated=_count_duplicated(clicks, rows.values(), units_per_user=sale.units_per_user),
        attempts_per_second=crowd.attempts_per_second,
        reserve_p50_ms=crowd.reserve_p50_ms,
        reserve_p99_ms=crowd.reserve_p99_ms,
        drain_seconds=round(drain_seconds, 3),
        invariants={
            **invariants,
            "I6": invariants.get("I6", True)
            and all(is_kept(rows.get(each), user_id) for (user_id, _), ids in clicks.items() for each in ids),
            "I9": not unexplained(live, promised, doubtful=doubtful),
        },
    )


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
        *(threshold_of(name, holds=holds) for name, holds in verdict.invariants.items()),
    ]


def _count_duplicated(promised: Mapping[Click, Collection[str]], rows: Iterable[Row], *, units_per_user: int) -> int:
    """Count clicks that were promised several orders, and other users above the limit."""
    doubled = [click for click, order_ids in promised.items() if len(order_ids) > 1]
    return len(doubled) + len(above_limit(rows, units_per_user) - {user_id for user_id, _ in doubled})
