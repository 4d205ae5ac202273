"""What Redis and Postgres hold of a sale, in the words of the model."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from shop.ledger import client as ledger
from shop.ledger.events import Fields, named_fields, unpacked
from tests.invariants.ledger_model import Event, Held
from tests.invariants.postgres_model import Row


@dataclass(frozen=True)
class LedgerNow:
    """The keys of the ledger as they are."""

    fields: dict[str, str]
    buyers: dict[str, tuple[int, int]]
    orders: dict[bytes, Held]
    stream: list[Event]


@dataclass(frozen=True)
class PostgresNow:
    """The rows of the sale as they are."""

    sale: tuple[Any, ...]
    orders: dict[bytes, Row]
    ledger: dict[tuple[int, int], tuple[str, int, int]]
    outcomes: list[str | None]


ROWS = text(
    """
    SELECT json_build_array(s.units, p.stock, s.units_taken, s.held_back, s.watermark, s.watermark_balance, s.status,
                            s.paused, s.epoch),
      (SELECT json_agg(json_build_array(o.id, o.user_id, o.quantity, o.epoch, o.seq, o.status,
                                        o.closed_at IS NOT NULL, o.released_at IS NOT NULL))
         FROM orders o WHERE o.sale_id = s.id),
      (SELECT json_agg(json_build_array(l.epoch, l.seq, l.kind, l.delta, l.balance) ORDER BY l.epoch, l.seq)
         FROM stock_ledger l WHERE l.sale_id = s.id),
      (SELECT json_agg(c.outcome ORDER BY c.n) FROM sale_changes c WHERE c.sale_id = s.id)
    FROM sales s JOIN products p ON p.id = s.product_id WHERE s.id = :sale_id
    """
)


def pair(value: bytes) -> tuple[int, int]:
    """A buyer's entry."""
    units, made = value.split(b" ")
    return int(units), int(made)


def entry(value: bytes) -> Held:
    """An order's entry."""
    order = ledger.parse_order(value)
    return Held(order.user_id, order.quantity, order.seq, order.held)


def events(reply: list[tuple[bytes, Fields]]) -> list[Event]:
    """The events in the stream, in either format, each with the number of its entry."""
    entries = [(int(number.partition(b"-")[0]), fields) for number, fields in reply]
    return [
        event(seq, found, number) for number, fields in entries for seq, found in unpacked([(number, fields)], after=0)
    ]


def event(seq: int, found: Fields, entry: int) -> Event:
    """An event as `unpacked` gives it."""
    found = named_fields(found)
    delta, balance, kind = int(found[b"delta"]), int(found[b"balance"]), found[b"kind"].decode()
    if b"order" in found:
        user, quantity = found[b"user"].decode(), int(found[b"quantity"])
        return Event(seq, kind, delta, balance, order_id=found[b"order"], user=user, quantity=quantity, entry=entry)
    outcome = found[b"outcome"].decode()
    return Event(seq, kind, delta, balance, change=int(found[b"change"]), outcome=outcome, entry=entry)
