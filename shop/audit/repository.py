"""The audit's queries: one pass over the ledger, one over the orders."""

from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.models import Order, OrderStatus
from shop.sales.models import LedgerRow, SaleEpoch
from shop.seckill.order_ids import ids_of_sale


@dataclass(frozen=True)
class LedgerSums:
    """What one pass over the ledger rows of an epoch tells."""

    rows: int
    first_seq: int
    last_seq: int
    broken_balances: int
    negative_balances: int
    quarantined_delta: int


@dataclass(frozen=True)
class OrderSums:
    """The units of a sale's orders by what they are."""

    held: int
    paid: int
    closing: int
    kept: int

    @property
    def live(self) -> int:
        """Units of orders that are not back."""
        return self.held + self.paid + self.closing + self.kept


async def ledger_sums(session: AsyncSession, sale_id: int, epoch: int, opening_balance: int) -> LedgerSums:
    """Check each balance against the one before it, in the database."""
    before = func.lag(LedgerRow.balance, 1, opening_balance).over(order_by=LedgerRow.seq)
    rows = (
        select(
            LedgerRow.seq,
            LedgerRow.balance,
            (LedgerRow.balance != before + LedgerRow.delta).label("broken"),
            case((LedgerRow.quarantined.is_not(None), LedgerRow.delta), else_=0).label("quarantined_delta"),
        )
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == epoch)
        .subquery()
    )
    query = select(
        func.count(),
        func.coalesce(func.min(rows.c.seq), 0),
        func.coalesce(func.max(rows.c.seq), 0),
        func.count().filter(rows.c.broken),
        func.count().filter(rows.c.balance < 0),
        func.coalesce(func.sum(rows.c.quarantined_delta), 0),
    ).select_from(rows)
    return LedgerSums(*(int(value) for value in (await session.execute(query)).one()))


async def honoured_units(session: AsyncSession, sale_id: int) -> int:
    """Units of orders that a recovery has brought back, in all epochs."""
    query = select(func.coalesce(func.sum(LedgerRow.quantity), 0)).where(
        LedgerRow.sale_id == sale_id, LedgerRow.kind == "honoured"
    )
    return int((await session.execute(query)).scalar_one())


async def broken_epochs(session: AsyncSession, sale_id: int, *, before: int) -> list[int]:
    """The earlier epochs whose rows have a gap, or a balance that does not follow from the one before it."""
    last = func.lag(LedgerRow.balance).over(partition_by=LedgerRow.epoch, order_by=LedgerRow.seq)
    number = func.row_number().over(partition_by=LedgerRow.epoch, order_by=LedgerRow.seq)
    balance_before = func.coalesce(last, SaleEpoch.opening_balance)
    follows = (LedgerRow.balance == balance_before + LedgerRow.delta) & (LedgerRow.seq == number)
    rows = (
        select(LedgerRow.epoch, follows.label("follows"))
        .join(SaleEpoch, (SaleEpoch.sale_id == LedgerRow.sale_id) & (SaleEpoch.epoch == LedgerRow.epoch))
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch < before)
        .subquery()
    )
    query = select(rows.c.epoch).where(~rows.c.follows).distinct().order_by(rows.c.epoch)
    return list((await session.execute(query)).scalars())


async def order_sums(session: AsyncSession, sale_id: int) -> OrderSums:
    """Sum the units of the sale's live orders."""
    ids = ids_of_sale(sale_id)
    closing = Order.closed_at.is_not(None)
    kinds = (
        Order.status == OrderStatus.RESERVED,
        Order.status == OrderStatus.PAID,
        closing,
        ~closing & (Order.status == OrderStatus.REFUNDED),
    )
    units = [func.coalesce(func.sum(Order.quantity).filter(kind), 0) for kind in kinds]
    query = select(*units).where(Order.id.between(ids.first, ids.last), Order.released_at.is_(None))
    return OrderSums(*(int(value) for value in (await session.execute(query)).one()))


async def most_units_of_one_user(session: AsyncSession, sale_id: int) -> int:
    """The largest number of live units that one user has in the sale."""
    ids = ids_of_sale(sale_id)
    per_user = (
        select(func.sum(Order.quantity).label("units"))
        .where(Order.id.between(ids.first, ids.last), Order.released_at.is_(None))
        .group_by(Order.user_id)
        .subquery()
    )
    return int((await session.execute(select(func.coalesce(func.max(per_user.c.units), 0)))).scalar_one())
