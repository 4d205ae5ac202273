"""What was promised against what is recorded. It is called when nobody asks for anything, and believes neither side.

Sales may be checked while their holds expire and their units come back: what was promised stays promised.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.judge.afterlife import released_wrongly
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import OnSale
from loadtests.torture.purchases import Purchase
from loadtests.torture.testbed import Testbed
from shop.audit.service import audit_sale
from shop.errors import NotReady
from shop.ledger import client as ledger
from shop.ledger.order_ids import ids_of_sale, keyed_order_id, uuid_text
from shop.orders.models import Order, OrderStatus
from shop.sales import repository
from shop.sales.incidents import repository as recoveries
from shop.sales.models import Sale

DRAIN_SECONDS_MAX = 15.0
RECEIPT_SECONDS_MAX = 15.0
POLL_SECONDS = 0.02
ROWS_PER_FETCH = 10_000
REPLAYS = 5
SHOWN_MAX = 5

INVARIANTS = {
    "I1": "no gap in the ledger",
    "I2": "every balance follows from the last",
    "I3": "units are conserved",
    "I4": "no oversell, by the rows",
    "I5": "no buyer above the limit",
    "I6": "every promise has its row",
    "I7": "a repeat finds the order for ever",
    "I8": "units went back once, and from closed orders",
    "I9": "no row without a promise",
    "I10": "nothing is sold while paused or over",
    "I12": "everything is well within 15 s",
    "history": "every answer was true at its place in the ledger",
}


@dataclass
class Finding:
    """What the checks have found so far: counts of what must not be, and sentences about it.

    A heal that came late breaks I12 too, and the run goes on: the shop may be well again. `late` has those sentences.
    """

    lost: int = 0
    oversold: int = 0
    over_limit: int = 0
    duplicated: int = 0
    ghosts: int = 0
    honoured_by_receipt: int = 0
    checks: int = 0
    broken: set[str] = field(default_factory=set)
    sentences: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def breaks(self, invariant: str, sentence: str) -> None:
        """An invariant does not hold."""
        self.broken.add(invariant)
        self.sentences.append(f"{invariant}: {sentence}")

    @property
    def clean(self) -> bool:
        """Whether the run can go on: nothing is broken but the time to heal."""
        return not self.broken and not self.sentences

    @property
    def violations(self) -> list[str]:
        return [*(f"I12: {sentence}" for sentence in self.late), *self.sentences]

    @property
    def invariants(self) -> dict[str, bool]:
        broken = self.broken | ({"I12"} if self.late else set())
        return {name: name not in broken for name in INVARIANTS}


@dataclass(frozen=True, slots=True)
class Row:
    """An order of a sale as Postgres has it."""

    user_id: str
    quantity: int
    status: str
    live: bool


async def check_sale(testbed: Testbed, crowd: Crowd, sale: OnSale, finding: Finding) -> None:
    """Compare everything that was told about a sale with what is recorded, and add what is wrong to the finding."""
    finding.checks += 1
    await _until_drained(testbed, sale, finding)
    rows, units, limit, wrong_releases = await testbed.asking(lambda: _recorded(testbed, sale))
    missing = [purchase for purchase in sale.purchases if purchase.promised and not _has_row(purchase, rows)]
    if missing:
        rows = await _after_receipts(testbed, crowd, sale, missing, rows, finding)
    _compare_promises(sale, rows, finding)
    _compare_rows(sale, rows, finding)
    _count_units(sale, rows, units, limit, finding)
    if wrong_releases:
        finding.breaks("I8", f"sale {sale.id}: {wrong_releases} orders gave their units back wrongly")
    await _audit(testbed, sale, finding)
    await _repeat_some(crowd, sale, finding)


async def _until_drained(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS_MAX

    async def drained() -> bool:
        async with testbed.database.transaction() as session:
            row = await repository.find(session, sale.id)
            recovering = await recoveries.unfinished(session, sale.id)
        if row is None or recovering is not None:
            return False
        if row.status == "settled":
            return True
        state = await ledger.read_state(testbed.redis, sale.id, row.epoch)
        return state is not None and state.seq == row.watermark

    while not await testbed.asking(drained):
        if time.monotonic() > deadline:
            finding.breaks("I12", f"sale {sale.id} is not drained after {DRAIN_SECONDS_MAX:g} s without a purchase")
            return
        await asyncio.sleep(POLL_SECONDS)


async def _recorded(testbed: Testbed, sale: OnSale) -> tuple[dict[str, Row], int, int, int]:
    async with testbed.database.transaction() as session:
        row = await session.get_one(Sale, sale.id)
        rows = await _rows(session, sale.id)
        return rows, row.units, row.units_per_user, await released_wrongly(session, sale.id)


async def _rows(session: AsyncSession, sale_id: int) -> dict[str, Row]:
    ids = ids_of_sale(sale_id)
    query = (
        select(Order.id, Order.user_id, Order.quantity, Order.status, Order.released_at.is_(None))
        .where(Order.id.between(ids.first, ids.last))
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    rows: dict[str, Row] = {}
    async for fetched in (await session.stream(query)).partitions(ROWS_PER_FETCH):
        for order_id, user_id, quantity, status, live in fetched:
            rows[str(order_id)] = Row(user_id, quantity, status, live)
    return rows


def _has_row(purchase: Purchase, rows: dict[str, Row]) -> bool:
    return all(order_id in rows for order_id in purchase.order_ids)


async def _after_receipts(
    testbed: Testbed,
    crowd: Crowd,
    sale: OnSale,
    missing: Sequence[Purchase],
    rows: dict[str, Row],
    finding: Finding,
) -> dict[str, Row]:
    """Let the buyers of orders without a row show their receipts; the rows after that."""
    shown = (crowd.show_receipt(purchase, seconds=RECEIPT_SECONDS_MAX) for purchase in missing)
    found = await asyncio.gather(*shown)
    await _until_drained(testbed, sale, finding)
    rows, *_ = await testbed.asking(lambda: _recorded(testbed, sale))
    brought_back = [purchase for purchase in missing if _has_row(purchase, rows)]
    finding.honoured_by_receipt += len(brought_back)
    for purchase, answered in zip(missing, found, strict=True):
        if not _has_row(purchase, rows):
            finding.lost += 1
            said = "is answered for" if answered else "is not found"
            _tell(
                finding, "I6", finding.lost, f"order {min(purchase.order_ids)} has no row and {said}; {_last(purchase)}"
            )
    return rows


def _compare_promises(sale: OnSale, rows: dict[str, Row], finding: Finding) -> None:
    for purchase in sale.purchases:
        if not purchase.promised:
            continue
        expected = order_id_of(sale, purchase)
        if purchase.order_ids != {expected}:
            finding.duplicated += 1
            _tell(finding, "I7", finding.duplicated, f"one key was promised {sorted(purchase.order_ids)}")
        row = rows.get(expected)
        if row is not None and (row.user_id, row.quantity) != (purchase.user_id, purchase.quantity):
            finding.breaks("I6", f"order {expected} was promised otherwise than it is recorded: {row}")
        if row is not None and purchase.cancelled and row.status != OrderStatus.CANCELLED:
            finding.breaks("I8", f"order {expected} was cancelled, and is {row.status}")


def _compare_rows(sale: OnSale, rows: dict[str, Row], finding: Finding) -> None:
    """Every row must be explained by an attempt that was promised it, or whose outcome nobody told."""
    explained = {order_id for purchase in sale.purchases for order_id in purchase.order_ids}
    explained |= {order_id_of(sale, purchase) for purchase in sale.purchases if purchase.maybe}
    for order_id in rows.keys() - explained:
        finding.ghosts += 1
        _tell(finding, "I9", finding.ghosts, f"order {order_id} of {rows[order_id].user_id} was promised to nobody")
    for number, purchase in enumerate((each for each in sale.purchases if not each.settled), 1):
        _tell(finding, "I9", number, f"nobody told the outcome of {purchase.key}; {_last(purchase)}")


def _count_units(sale: OnSale, rows: dict[str, Row], units: int, limit: int, finding: Finding) -> None:
    live = [row for row in rows.values() if row.live]
    oversold = max(0, sum(row.quantity for row in live) - units)
    if oversold:
        finding.oversold += oversold
        finding.breaks("I4", f"sale {sale.id} has {oversold} units too many in live orders")
    held: Counter[str] = Counter()
    for row in live:
        held[row.user_id] += row.quantity
    above = [user_id for user_id, has in held.items() if has > limit]
    if above:
        finding.over_limit += len(above)
        finding.breaks("I5", f"sale {sale.id}: {above[:SHOWN_MAX]} have more than {limit} units")


async def _audit(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    try:
        report = await testbed.asking(lambda: audit_sale(testbed.database, testbed.redis, sale.id))
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


def order_id_of(sale: OnSale, purchase: Purchase) -> str:
    """The one order that this purchase can be."""
    return uuid_text(keyed_order_id(sale.id, sale.salt, purchase.user_id, purchase.key))


def _last(purchase: Purchase) -> str:
    told = ", ".join(f"{each.attempt.code} (epoch {each.epoch}, seq {each.seq})" for each in purchase.told[-3:])
    return f"told: {told}"


def _tell(finding: Finding, invariant: str, number: int, sentence: str) -> None:
    """The first few in words, and of the rest only the number."""
    finding.broken.add(invariant)
    if number <= SHOWN_MAX:
        finding.sentences.append(f"{invariant}: {sentence}")
