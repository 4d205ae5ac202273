"""One batch of ledger events as rows: the orders, their lines, the ledger, the guard, all under the sale's lock."""

from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import copy_rows
from shop.faults import fault_point
from shop.ledger.events import CHANGE_KINDS, STOCK_KINDS, LedgerEvent
from shop.orders import repository
from shop.orders.announcing import announce_after_commit
from shop.orders.models import OrderStatus
from shop.products import repository as products
from shop.sales.changes import record_drained
from shop.sales.models import Sale
from shop.settings import Settings

ORDER_COLUMNS = (
    "id", "sale_id", "epoch", "seq", "user_id", "status", "quantity", "total_minor", "currency", "reserved_at",
    "recorded_at", "expires_at",
)  # fmt: skip
LINE_COLUMNS = ("order_id", "line", "product_id", "quantity", "price_minor")
# Events that make an order. An honoured one was promised before a loss, and takes what was held back for it first.
ORDER_KINDS = frozenset({"reserved", "honoured"})
LEDGER_COLUMNS = (
    "sale_id", "epoch", "seq", "kind", "order_id", "user_id", "change_n", "quantity", "delta", "balance", "at",
)  # fmt: skip


class BrokenBatch(Exception):
    """The events cannot all be true: the sale must stop until someone has looked at entry `seq`."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"entry {seq}: {reason}")
        self.seq = seq


class PoisonedBatch(Exception):
    """A permanent failure of the batch, for its data; `seq` is the entry at fault if that is known."""

    def __init__(self, reason: str, seq: int | None) -> None:
        super().__init__(reason)
        self.seq = seq


async def write_batch(
    session: AsyncSession, sale: Sale, events: Sequence[LedgerEvent], now: datetime, settings: Settings
) -> int:
    """Write events that follow the watermark of the locked sale, and move the watermark; returns the orders made.

    Raises BrokenBatch when they do not follow it, when a balance does not add up, or when a release or a change finds
    no row that waits for it.
    """
    _check_chain(sale, events)
    reserved = [event for event in events if event.kind in ORDER_KINDS]
    released = [event for event in events if event.kind == "released"]
    await copy_rows(session, "orders", ORDER_COLUMNS, _faulty(_orders(sale, reserved, now), settings))
    await copy_rows(session, "order_lines", LINE_COLUMNS, _lines(sale, reserved))
    await copy_rows(session, "stock_ledger", LEDGER_COLUMNS, _ledger(sale, events))
    # The guard is checked when the row is written: once, after all events. Between them it may count too much.
    with session.no_autoflush:
        sale.units_taken += sum(event.quantity for event in reserved)
        sale.held_back -= sum(event.quantity + event.delta for event in reserved)
        if released:
            await _release(session, sale, released)
        for event in events:
            if event.kind in CHANGE_KINDS:
                await _change(session, sale, event)
    sale.watermark, sale.watermark_balance = events[-1].seq, events[-1].balance
    await session.flush()
    announce_after_commit(session, [event.order_id for event in (*reserved, *released) if event.order_id])
    return len(reserved)


def _check_chain(sale: Sale, events: Iterable[LedgerEvent]) -> None:
    seq, balance = sale.watermark, sale.watermark_balance
    for event in events:
        if event.seq != seq + 1:
            raise BrokenBatch(seq + 1, f"is missing, {event.seq} follows {seq}")
        if event.balance != balance + event.delta:
            raise BrokenBatch(event.seq, f"has balance {event.balance}, but {balance} and {event.delta} came before")
        if event.kind in STOCK_KINDS and event.delta not in _deltas(event):
            raise BrokenBatch(event.seq, f"moves {event.delta} for {event.quantity} units {event.kind}")
        seq, balance = event.seq, event.balance


def _deltas(event: LedgerEvent) -> Container[int]:
    """What an order's event may move: all its units; none for a release after the end; what was not held back."""
    if event.kind == "honoured":
        return range(-event.quantity, 1)
    return (-event.quantity,) if event.kind == "reserved" else (event.quantity, 0)


def _orders(sale: Sale, reserved: Iterable[LedgerEvent], now: datetime) -> Iterator[tuple[Any, ...]]:
    expires_at = now + timedelta(seconds=sale.hold_seconds)
    for event in reserved:
        yield (
            event.order_id, sale.id, sale.epoch, event.seq, event.user_id, OrderStatus.RESERVED.value, event.quantity,
            event.quantity * event.price_minor, sale.currency, event.at, now, expires_at,
        )  # fmt: skip


def _lines(sale: Sale, reserved: Iterable[LedgerEvent]) -> Iterator[tuple[Any, ...]]:
    for event in reserved:
        yield event.order_id, 1, sale.product_id, event.quantity, event.price_minor


def _ledger(sale: Sale, events: Iterable[LedgerEvent]) -> Iterator[tuple[Any, ...]]:
    for event in events:
        yield (
            sale.id, sale.epoch, event.seq, event.kind, event.order_id, event.user_id, event.change_n, event.quantity,
            event.delta, event.balance, event.at,
        )  # fmt: skip


def _faulty(rows: Iterator[tuple[Any, ...]], settings: Settings) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        yield row
        fault_point(settings, "stop_in_copy")


async def _release(session: AsyncSession, sale: Sale, released: Sequence[LedgerEvent]) -> None:
    """Close the rows whose units the ledger took back. After the end (delta 0) the units go to the product."""
    units_of = await repository.mark_released(session, [event.order_id for event in released if event.order_id])
    for event in released:
        if event.order_id is None or units_of.get(event.order_id) != event.quantity:
            raise BrokenBatch(event.seq, f"releases order {event.order_id}, which is not closed and waiting")
        sale.units_taken -= event.quantity
    to_product = sum(event.quantity for event in released if event.delta == 0)
    if to_product:
        sale.units -= to_product
        await products.give_stock(session, sale.product_id, to_product)


async def _change(session: AsyncSession, sale: Sale, event: LedgerEvent) -> None:
    recorded = await record_drained(
        session, sale, n=event.change_n or 0, outcome=event.outcome or "", delta=event.delta, at=event.at
    )
    if not recorded:
        raise BrokenBatch(event.seq, f"closes change {event.change_n}, which is not open")
