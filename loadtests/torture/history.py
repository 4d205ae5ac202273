"""What the ledger of a sale shows: nothing was sold while it was closed, and every answer was true at its position."""

from collections.abc import Iterator

from sqlalchemy import select

from loadtests.judge.history import check_history
from loadtests.judge.ledger import sold_while_closed
from loadtests.judge.operations import Entry, Operation, Rules, operation_of
from loadtests.judge.rows import entries_of, rules_of
from loadtests.torture.driver import OnSale
from loadtests.torture.finding import Finding
from loadtests.torture.healing import HEAL_SECONDS_BAR
from loadtests.torture.purchases import Purchase
from loadtests.torture.testbed import Testbed
from shop.sales.models import LedgerRow, SaleChange

# A process that was stopped answers out of its memory when it is thawed, before it looks again.
MEMORY_SECONDS = HEAL_SECONDS_BAR


async def check_ledger(testbed: Testbed, sale: OnSale, finding: Finding) -> None:
    """Check a sale by its ledger; call it when everything is drained."""

    async def read() -> tuple[list[LedgerRow], dict[int, SaleChange], list[Entry], Rules]:
        async with testbed.database.transaction() as session:
            query = select(LedgerRow).where(LedgerRow.sale_id == sale.id).order_by(LedgerRow.epoch, LedgerRow.seq)
            rows = list((await session.execute(query)).scalars())
            changes = (await session.execute(select(SaleChange).where(SaleChange.sale_id == sale.id))).scalars()
            entries, rules = await entries_of(session, sale.id), await rules_of(session, sale.id)
            return rows, {change.n: change for change in changes}, entries, rules

    rows, changes, entries, rules = await testbed.until_answered(read)
    for sentence in sold_while_closed(rows, changes):
        finding.breaks("I10", f"sale {sale.id}: {sentence}")
    operations = [each for purchase in sale.purchases for each in operations_of(sale, purchase)]
    judged = check_history(operations, entries, {sale.id: rules}, memory_seconds=MEMORY_SECONDS, losses=testbed.losses)
    for sentence in judged:
        finding.breaks("history", sentence)


def operations_of(sale: OnSale, purchase: Purchase) -> Iterator[Operation]:
    """The attempts of a purchase as the judge of histories reads them; one that was never sent is none."""
    asked_for, quantity = sale.order_id_of(purchase), purchase.quantity
    for attempt, epoch, seq in purchase.told:
        operation = operation_of(attempt, sale_id=sale.id, quantity=quantity, epoch=epoch, seq=seq, asked_for=asked_for)
        if operation is not None:
            yield operation
