"""The queries of the proof: what the rows of a ledger say, and what the orders of a sale add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import Subquery

from shop.audit.models import AuditFinding, SaleAudit
from shop.ledger.order_ids import ids_of_sale
from shop.orders.batch import ORDER_KINDS
from shop.orders.models import Order, OrderLine, OrderStatus
from shop.sales.changes import APPLIED
from shop.sales.models import ChangeKind, LedgerRow, SaleChange, SaleEpoch


@dataclass(frozen=True)
class Part:
    """What up to `rows_max` rows of a ledger say, each compared with the one before it and with its order.

    `taken` are the units of their reservations less those of their releases, `held_back_taken` what the honoured ones
    took from what a recovery held back, and `restored` says whether the rest of that was given up.
    """

    rows_max: int
    rows: int = 0
    first_seq: int = 0
    last_seq: int = 0
    delta: int = 0
    broken_balances: int = 0
    negative_balances: int = 0
    taken: int = 0
    held_back_taken: int = 0
    quarantined_delta: int = 0
    restored: bool = False
    unmatched: int = 0
    unreleased: int = 0

    def and_then(self, following: "Part") -> "Part":
        """Both parts as one."""
        return Part(
            rows_max=self.rows_max + following.rows_max,
            rows=self.rows + following.rows,
            first_seq=self.first_seq or following.first_seq,
            last_seq=following.last_seq or self.last_seq,
            delta=self.delta + following.delta,
            broken_balances=self.broken_balances + following.broken_balances,
            negative_balances=self.negative_balances + following.negative_balances,
            taken=self.taken + following.taken,
            held_back_taken=self.held_back_taken + following.held_back_taken,
            quarantined_delta=self.quarantined_delta + following.quarantined_delta,
            restored=self.restored or following.restored,
            unmatched=self.unmatched + following.unmatched,
            unreleased=self.unreleased + following.unreleased,
        )


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


async def read_part(
    session: AsyncSession, sale_id: int, epoch: int, *, after: int, balance: int, rows_max: int
) -> Part:
    """Check up to `rows_max` rows behind a position with this balance, in the database and in one pass."""
    rows = _checked(sale_id, epoch, after, balance, rows_max)
    kind, quantity, delta = rows.c.kind, rows.c.quantity, rows.c.delta
    taken = func.sum(quantity).filter(rows.c.makes_order)
    query = select(
        func.count(),
        _or_zero(func.min(rows.c.seq)),
        _or_zero(func.max(rows.c.seq)),
        _or_zero(func.sum(delta)),
        func.count().filter(rows.c.broken),
        func.count().filter(rows.c.balance < 0),
        _or_zero(taken) - _or_zero(func.sum(quantity).filter(rows.c.releases)),
        _or_zero(func.sum(quantity + delta).filter(rows.c.makes_order, kind == "honoured")),
        _or_zero(func.sum(delta).filter(rows.c.quarantined)),
        func.coalesce(func.bool_or(rows.c.restores), False),
        func.count().filter(rows.c.unmatched),
        func.count().filter(rows.c.unreleased),
    ).select_from(rows)
    return Part(rows_max, *(await session.execute(query)).one())


async def faulty_rows(
    session: AsyncSession, sale_id: int, epoch: int, *, after: int, balance: int, rows_max: int, limit: int
) -> list[dict[str, Any]]:
    """The first of those rows in which something is wrong, beside what their orders say, as values for JSON."""
    rows = _checked(sale_id, epoch, after, balance, rows_max)
    is_faulty = (rows.c.broken | rows.c.unmatched | rows.c.unreleased | (rows.c.seq != after + rows.c.number)) | (
        rows.c.balance < 0
    )
    found = await session.execute(select(rows).where(is_faulty).order_by(rows.c.seq).limit(limit))
    return [{name: _plain(value) for name, value in row.items()} for row in found.mappings()]


def _checked(sale_id: int, epoch: int, after: int, balance: int, rows_max: int) -> Subquery:
    """The rows, each with what is wrong with it. Its order is looked up by its key, so only these rows cost."""
    rows = (
        select(LedgerRow)
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == epoch, LedgerRow.seq > after)
        .order_by(LedgerRow.seq)
        .limit(rows_max)
        .subquery()
    )
    # LIMIT keeps the planner from joining with all orders at once.
    order = (
        select(Order.user_id, Order.quantity, Order.epoch, Order.seq, Order.released_at)
        .where(Order.id == rows.c.order_id)
        .limit(1)
        .lateral()
    )
    counts = rows.c.quarantined.is_(None)
    makes_order = counts & rows.c.kind.in_(ORDER_KINDS)
    releases = counts & (rows.c.kind == "released")
    same = and_(
        order.c.user_id == rows.c.user_id,
        order.c.quantity == rows.c.quantity,
        order.c.epoch == rows.c.epoch,
        order.c.seq == rows.c.seq,
    )
    applied = (
        select(SaleChange.n)
        .where(SaleChange.sale_id == rows.c.sale_id, SaleChange.n == rows.c.change_n, SaleChange.outcome == APPLIED)
        .exists()
    )
    before = func.lag(rows.c.balance, 1, balance).over(order_by=rows.c.seq)
    return (
        select(
            *(rows.c[name] for name in ("seq", "kind", "order_id", "user_id", "quantity", "delta", "balance")),
            func.row_number().over(order_by=rows.c.seq).label("number"),
            before.label("balance_before"),
            order.c.user_id.label("order_user_id"),
            order.c.quantity.label("order_quantity"),
            order.c.seq.label("order_seq"),
            order.c.released_at.label("order_released_at"),
            (~counts).label("quarantined"),
            makes_order.label("makes_order"),
            releases.label("releases"),
            (counts & (rows.c.kind == ChangeKind.RESTORE) & applied).label("restores"),
            (rows.c.balance != before + rows.c.delta).label("broken"),
            (makes_order & ~func.coalesce(same, False)).label("unmatched"),
            (releases & order.c.released_at.is_(None)).label("unreleased"),
        )
        .select_from(rows.outerjoin(order, true()))
        .subquery()
    )


def _or_zero(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(number, 0)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, int | str) else str(value)


async def most_units_of_buyers(session: AsyncSession, sale_id: int, epoch: int, *, after: int, rows_max: int) -> int:
    """The largest number of live units that one of those has who reserved in these rows."""
    rows = (
        select(LedgerRow.user_id, LedgerRow.kind)
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == epoch, LedgerRow.seq > after)
        .order_by(LedgerRow.seq)
        .limit(rows_max)
        .subquery()
    )
    buyers = select(rows.c.user_id).where(rows.c.kind.in_(ORDER_KINDS)).distinct().subquery()
    units = (
        _live_orders(sale_id, func.sum(Order.quantity).label("units"))
        .where(Order.user_id == buyers.c.user_id)
        .lateral()
    )
    query = select(_or_zero(func.max(units.c.units))).select_from(buyers.join(units, true()))
    return int((await session.execute(query)).scalar_one())


async def most_units_of_one_user(session: AsyncSession, sale_id: int) -> int:
    """The largest number of live units that one user has in the sale."""
    per_user = _live_orders(sale_id, func.sum(Order.quantity).label("units")).group_by(Order.user_id).subquery()
    return int((await session.execute(select(_or_zero(func.max(per_user.c.units))))).scalar_one())


def _live_orders(sale_id: int, *columns: ColumnElement[Any]) -> Select[Any]:
    ids = ids_of_sale(sale_id)
    return select(*columns).where(Order.id.between(ids.first, ids.last), Order.released_at.is_(None))


async def honoured_units(session: AsyncSession, sale_id: int) -> int:
    """Units of orders that a recovery has brought back, in all epochs."""
    query = select(_or_zero(func.sum(LedgerRow.quantity))).where(
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
    closing = Order.closed_at.is_not(None)
    kinds = (
        Order.status == OrderStatus.RESERVED,
        Order.status == OrderStatus.PAID,
        closing,
        ~closing & (Order.status == OrderStatus.REFUNDED),
    )
    query = _live_orders(sale_id, *(_or_zero(func.sum(Order.quantity).filter(kind)) for kind in kinds))
    return OrderSums(*(int(value) for value in (await session.execute(query)).one()))


class Unpaired(NamedTuple):
    """Orders of a sale that have no line, and lines that have no order."""

    orders: int = 0
    lines: int = 0


async def unpaired(session: AsyncSession, sale_id: int) -> Unpaired:
    """Count what a foreign key does not see: both are written in one transaction."""
    ids = ids_of_sale(sale_id)
    orders = select(Order.id).where(Order.id.between(ids.first, ids.last)).subquery()
    lines = select(OrderLine.order_id).where(OrderLine.order_id.between(ids.first, ids.last)).subquery()
    query = select(
        func.count().filter(lines.c.order_id.is_(None)), func.count().filter(orders.c.id.is_(None))
    ).select_from(orders.join(lines, orders.c.id == lines.c.order_id, full=True))
    return Unpaired(*(await session.execute(query)).one())


async def find_position(session: AsyncSession, sale_id: int, epoch: int) -> SaleAudit | None:
    """How far an epoch is verified."""
    return await session.get(SaleAudit, (sale_id, epoch), populate_existing=True)


async def latest_findings(session: AsyncSession, sale_id: int, *, limit: int) -> Sequence[AuditFinding]:
    """What audits have found wrong in a sale, the newest first."""
    query = select(AuditFinding).where(AuditFinding.sale_id == sale_id).order_by(AuditFinding.id.desc()).limit(limit)
    return (await session.execute(query)).scalars().all()
