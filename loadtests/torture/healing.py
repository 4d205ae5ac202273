"""How long it takes until everything is well again (I12), measured while the crowd goes on."""

import asyncio
import time

from sqlalchemy import Select, func, select

from loadtests.client.answers import NOT_ENOUGH_UNITS, SALE_ENDED, SOLD_OUT
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import Driver, OnSale
from loadtests.torture.purchases import Purchase
from loadtests.torture.slowdown import Slowdown
from loadtests.torture.testbed import Testbed
from shop.failure_isolation import SERVER_ERRORS
from shop.ledger import client as ledger
from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order, OrderStatus
from shop.sales import repository
from shop.sales.incidents import repository as recoveries

HEAL_SECONDS_BAR = 15.0
HEAL_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
PROBES = 2
# The sweep comes every second, and takes a moment.
OVERDUE_AFTER_SECONDS = 2
REGULAR = frozenset({SOLD_OUT, NOT_ENOUGH_UNITS, SALE_ENDED})


class NotHealed(Exception):
    """Something is not well long after the fault was lifted; the message says what."""


def seconds_allowed(bar_seconds: float, slowdown: float) -> float:
    """How long healing may take on a machine that is so much slower just now."""
    return min(HEAL_SECONDS_MAX, bar_seconds * slowdown)


async def until_healed(testbed: Testbed, driver: Driver, crowd: Crowd, slowdown: Slowdown, *, since: float) -> float:
    """The seconds from `since` until all is well: every open sale answers newcomers in the regular way, what its ledger
    had then is recorded, no alarm stands, no recovery is under way and no hold is overdue. Meanwhile the machine's
    slowdown is measured.

    Raises NotHealed, and Wrecked when a process has ended that should not.
    """
    deadline = since + HEAL_SECONDS_MAX
    for sale in list(driver.sales):
        probes = [crowd.new_purchase(sale) for _ in range(PROBES)] if sale.selling else []
        while True:
            slowdown.probe()
            testbed.restart_ended()
            driver.require_alive()
            crowd.require_alive()
            try:
                found = await _symptom(testbed, crowd, sale, probes)
            except SERVER_ERRORS as error:
                found = f"a server is away: {error!r}"
            if found is None:
                break
            if time.monotonic() > deadline:
                raise NotHealed(f"sale {sale.id}: {found}")
            await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - since


async def _symptom(testbed: Testbed, crowd: Crowd, sale: OnSale, probes: list[Purchase]) -> str | None:
    """What is not well with a sale, or None."""
    for probe in probes:
        if not probe.settled:
            await crowd.ask(probe)
        if not probe.settled:
            return f"a purchase is answered with {probe.told[-1].attempt.code}"
    async with testbed.database.transaction() as session:
        row = await repository.find(session, sale.id)
        recovering = await recoveries.unfinished(session, sale.id)
        overdue = await session.scalar(_overdue(sale.id))
    if row is None or row.alarm is not None or recovering is not None:
        return f"alarm: {row.alarm if row else 'no row'}"
    if overdue:
        return f"{overdue} holds are overdue"
    if row.status == "settled":
        return None
    state = await ledger.read_state(testbed.redis, sale.id, row.epoch)
    if state is None:
        return "the ledger is missing"
    codes = {probe.told[-1].attempt.code for probe in probes if not probe.promised}
    if strange := codes - REGULAR:
        return f"newcomers are told {', '.join(sorted(strange))}"
    if SOLD_OUT in codes and state.available > 0 and sale.selling:
        probes[:] = [crowd.new_purchase(sale)]
        return f"newcomers are told that all is sold while {state.available} units are available"
    return await _undrained(testbed, sale, row.epoch, state.seq)


async def _undrained(testbed: Testbed, sale: OnSale, epoch: int, seq: int) -> str | None:
    """Whether Postgres reaches this entry soon, whatever comes behind it."""
    end = time.monotonic() + HEAL_SECONDS_BAR
    while time.monotonic() < end:
        async with testbed.database.transaction() as session:
            row = await repository.find(session, sale.id)
        if row is None or row.epoch != epoch:
            return "the sale has moved on to another epoch"
        if row.watermark >= seq:
            return None
        await asyncio.sleep(POLL_SECONDS)
    return f"entry {seq} is not recorded"


def _overdue(sale_id: int) -> Select[int]:
    ids = ids_of_sale(sale_id)
    late = func.make_interval(0, 0, 0, 0, 0, 0, OVERDUE_AFTER_SECONDS)
    return select(func.count()).where(
        Order.id.between(ids.first, ids.last),
        Order.status == OrderStatus.RESERVED,
        Order.expires_at < func.now() - late,
    )
