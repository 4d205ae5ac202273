"""What the ledger rows of a sale show: nothing was sold while it was closed, and every answer was true at its place."""

from collections.abc import Iterable, Iterator

from sqlalchemy import select

from loadtests.client.answers import REPLAYED, RESERVED
from loadtests.client.http import ConnectError
from loadtests.judge import history
from loadtests.judge.told import entries_of, rules_of
from loadtests.torture.check import Finding, order_id_of
from loadtests.torture.driver import OnSale
from loadtests.torture.healing import HEAL_SECONDS_BAR
from loadtests.torture.purchases import Purchase
from loadtests.torture.testbed import Testbed
from shop.sales.models import LedgerRow, SaleChange

# A process that was stopped answers out of its memory when it is thawed, before it looks again.
MEMORY_SECONDS = HEAL_SECONDS_BAR


async def check_ledger(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    """Check a sale by its ledger; call it when everything is drained."""

    async def read() -> tuple[list[LedgerRow], dict[int, SaleChange], list[history.Entry], history.Rules]:
        async with testbed.database.transaction() as session:
            query = select(LedgerRow).where(LedgerRow.sale_id == sale.id).order_by(LedgerRow.epoch, LedgerRow.seq)
            rows = list((await session.execute(query)).scalars())
            changes = (await session.execute(select(SaleChange).where(SaleChange.sale_id == sale.id))).scalars()
            entries, rules = await entries_of(session, sale.id), await rules_of(session, sale.id)
            return rows, {change.n: change for change in changes}, entries, rules

    rows, changes, entries, rules = await testbed.asking(read)
    for sentence in sold_while_closed(rows, changes):
        finding.breaks("I10", f"sale {sale.id}: {sentence}")
    attempts = [attempt for purchase in sale.purchases for attempt in attempts_of(sale, purchase)]
    judged = history.check_history(attempts, entries, {sale.id: rules}, memory_seconds=MEMORY_SECONDS)
    for sentence in judged:
        finding.breaks("history", sentence)


def sold_while_closed(rows: Iterable[LedgerRow], changes: dict[int, SaleChange]) -> list[str]:
    """Reservations between a pause and the next resume, or after the end, by the ledger's own order.

    What a recovery brings back is exempt, and a new epoch begins with nothing known: it settles changes without events.
    """
    found, epoch, paused, ended = [], 0, False, False
    for row in rows:
        if row.epoch != epoch:
            epoch, paused = row.epoch, False
        change = changes.get(row.change_n or 0)
        if change is not None and change.outcome == "applied":
            paused = row.kind == "pause" or (paused and row.kind != "resume")
            ended = ended or row.kind == "end"
        elif row.kind == "reserved" and (paused or ended):
            found.append(f"entry {row.seq} of epoch {row.epoch} was sold while the sale was closed")
    return found


def attempts_of(sale: OnSale, purchase: Purchase) -> Iterator[history.Attempt]:
    """The attempts of a purchase as the judge of histories reads them; one that was never sent is none."""
    for attempt, epoch, seq in purchase.told:
        if attempt.code == ConnectError.code:
            continue
        code, order_id = attempt.code, attempt.order_id
        if order_id is not None:
            code = RESERVED if code == RESERVED else REPLAYED
        elif attempt.unknown:
            code, order_id = history.UNKNOWN, order_id_of(sale, purchase)
        yield history.Attempt(
            purchase.sale_id,
            epoch,
            purchase.user_id,
            order_id,
            purchase.quantity,
            code,
            seq if epoch else None,
            attempt.sent_at,
            attempt.received_at,
        )
