"""What was promised against what is recorded. It is called when nobody asks for anything, and believes neither side.

Sales may be checked while their holds expire and their units come back: what was promised stays promised.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loadtests.judge.ledger import is_drained, released_wrongly
from loadtests.judge.promises import above_limit, is_kept, oversold, unexplained
from loadtests.judge.rows import Row, rows_of_sale
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import OnSale
from loadtests.torture.finding import SHOWN_MAX, Finding
from loadtests.torture.purchases import Purchase
from loadtests.torture.testbed import Testbed
from shop.audit.service import audit_sale
from shop.errors import NotReady
from shop.orders.models import OrderStatus
from shop.sales.models import Sale

DRAIN_SECONDS_MAX = 15.0
RECEIPT_SECONDS_MAX = 15.0
POLL_SECONDS = 0.02
REPLAYS = 5


class Recorded(NamedTuple):
    """A sale as Postgres has it, and how many of its orders gave their units back wrongly."""

    rows: Mapping[str, Row]
    units: int
    units_per_user: int
    released_wrongly: int


async def check_sale(testbed: Testbed, crowd: Crowd, sale: OnSale, finding: Finding) -> None:
    """Compare everything that was told about a sale with what is recorded, and add what is wrong to the finding."""
    finding.checks += 1
    await _until_drained(testbed, sale, finding)
    recorded = await _recorded(testbed, sale)
    missing = [purchase for purchase in sale.purchases if purchase.promised and not _has_row(purchase, recorded.rows)]
    if missing:
        recorded = await _after_receipts(testbed, crowd, sale, missing, finding)
    _compare_promises(sale, recorded.rows, finding)
    _compare_rows(sale, recorded.rows, finding)
    _count_units(sale, recorded, finding)
    await _audit(testbed, sale, finding)
    await _repeat_some(crowd, sale, finding)


async def _until_drained(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while not await testbed.until_answered(lambda: is_drained(testbed.database, testbed.redis, sale.id)):
        if time.monotonic() > deadline:
            finding.breaks("I12", f"sale {sale.id} is not drained after {DRAIN_SECONDS_MAX:g} s without a purchase")
            return
        await asyncio.sleep(POLL_SECONDS)


async def _recorded(testbed: Testbed, sale: OnSale) -> Recorded:
    async def read() -> Recorded:
        async with testbed.database.transaction() as session:
            row = await session.get_one(Sale, sale.id)
            rows, released = await rows_of_sale(session, sale.id), await released_wrongly(session, sale.id)
            return Recorded(rows, row.units, row.units_per_user, released)

    return await testbed.until_answered(read)


def _has_row(purchase: Purchase, rows: Mapping[str, Row]) -> bool:
    return all(order_id in rows for order_id in purchase.order_ids)


async def _after_receipts(
    testbed: Testbed, crowd: Crowd, sale: OnSale, missing: Sequence[Purchase], finding: Finding
) -> Recorded:
    """Let the buyers of orders without a row show their receipts; what is recorded after that."""
    shown = (crowd.show_receipt(purchase, seconds=RECEIPT_SECONDS_MAX) for purchase in missing)
    found = await asyncio.gather(*shown)
    await _until_drained(testbed, sale, finding)
    recorded = await _recorded(testbed, sale)
    brought_back = [purchase for purchase in missing if _has_row(purchase, recorded.rows)]
    finding.honoured_by_receipt += len(brought_back)
    for purchase, answered in zip(missing, found, strict=True):
        if not _has_row(purchase, recorded.rows):
            finding.lost += 1
            said = "is answered for" if answered else "is not found"
            finding.tell(
                "I6", finding.lost, f"order {min(purchase.order_ids)} has no row and {said}; {_last(purchase)}"
            )
    return recorded


def _compare_promises(sale: OnSale, rows: Mapping[str, Row], finding: Finding) -> None:
    for purchase in sale.purchases:
        if not purchase.promised:
            continue
        expected = sale.order_id_of(purchase)
        if purchase.order_ids != {expected}:
            finding.duplicated += 1
            finding.tell("I7", finding.duplicated, f"one key was promised {sorted(purchase.order_ids)}")
        row = rows.get(expected)
        if row is not None and not is_kept(row, purchase.user_id, purchase.quantity):
            finding.breaks("I6", f"order {expected} was promised otherwise than it is recorded: {row}")
        if row is not None and purchase.cancelled and row.status != OrderStatus.CANCELLED:
            finding.breaks("I8", f"order {expected} was cancelled, and is {row.status}")


def _compare_rows(sale: OnSale, rows: Mapping[str, Row], finding: Finding) -> None:
    """Every row must be explained by an attempt that was promised it, or whose outcome nobody told."""
    explained = {order_id for purchase in sale.purchases for order_id in purchase.order_ids}
    explained |= {sale.order_id_of(purchase) for purchase in sale.purchases if purchase.maybe}
    for order_id in unexplained(rows, explained):
        finding.ghosts += 1
        finding.tell("I9", finding.ghosts, f"order {order_id} of {rows[order_id].user_id} was promised to nobody")
    for number, purchase in enumerate((each for each in sale.purchases if not each.settled), 1):
        finding.tell("I9", number, f"nobody told the outcome of {purchase.key}; {_last(purchase)}")


def _count_units(sale: OnSale, recorded: Recorded, finding: Finding) -> None:
    rows, limit = recorded.rows.values(), recorded.units_per_user
    if units := oversold(rows, recorded.units):
        finding.oversold += units
        finding.breaks("I4", f"sale {sale.id} has {units} units too many in live orders")
    if above := sorted(above_limit(rows, limit)):
        finding.over_limit += len(above)
        finding.breaks("I5", f"sale {sale.id}: {above[:SHOWN_MAX]} have more than {limit} units")
    if recorded.released_wrongly:
        finding.breaks("I8", f"sale {sale.id}: {recorded.released_wrongly} orders gave their units back wrongly")


async def _audit(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    try:
        report = await testbed.until_answered(lambda: audit_sale(testbed.database, testbed.redis, sale.id))
    except NotReady as error:
        finding.breaks("I12", f"sale {sale.id} cannot be audited: {error}")
        return
    for sentence in report.violations:
        name, _, words = sentence.partition(": ")
        finding.breaks(name, f"sale {sale.id}: {words}")


async def _repeat_some(crowd: Crowd, sale: OnSale, finding: Finding) -> None:
    """Ask again for the oldest and the newest promises: the same key finds the same order, whatever happened since."""
    promised = [purchase for purchase in sale.purchases if purchase.promised]
    chosen = {purchase.number: purchase for purchase in [*promised[:1], *promised[-REPLAYS:]]}.values()
    await asyncio.gather(*(_repeat(crowd, purchase, finding) for purchase in chosen))


async def _repeat(crowd: Crowd, purchase: Purchase, finding: Finding) -> None:
    deadline = time.monotonic() + RECEIPT_SECONDS_MAX
    while True:
        await crowd.ask(purchase)
        attempt = purchase.told[-1].attempt
        if attempt.order_id is not None:
            if len(purchase.order_ids) > 1:
                finding.duplicated += 1
                finding.breaks("I7", f"{purchase.key} was promised {sorted(purchase.order_ids)}")
            return
        if time.monotonic() > deadline:
            finding.breaks("I7", f"{purchase.key} had an order, and its repeat is answered with {attempt.code}")
            return
        await asyncio.sleep(0.1)


def _last(purchase: Purchase) -> str:
    told = ", ".join(f"{each.attempt.code} (epoch {each.epoch}, seq {each.seq})" for each in purchase.told[-3:])
    return f"told: {told}"
