"""Histories of a small sale: what its buyers were told, what its rows say, and the judge of both."""

from collections.abc import Iterable, Sequence

from loadtests.client.answers import REPLAYED, RESERVED
from loadtests.judge.history import check_history
from loadtests.judge.operations import Entry, Operation, Rules

SALE = 7
UNITS = 5
RULES = Rules(units_per_user=2, orders_per_user=3, openings={1: UNITS})


def judge(
    operations: Iterable[Operation],
    rows: Iterable[Entry],
    rules: Rules = RULES,
    *,
    known: frozenset[str] = frozenset(),
    losses: Sequence[float] = (),
) -> list[str]:
    """What is wrong with the history of the one sale."""
    return check_history(operations, rows, {SALE: rules}, known=known, losses=losses)


def row(
    seq: int,
    user: str | None,
    *,
    kind: str = "reserved",
    order: str | None = None,
    quantity: int = 1,
    delta: int | None = None,
    balance: int,
    epoch: int = 1,
    quarantined: bool = False,
) -> Entry:
    """A row; the order of a user is named after the user."""
    order = f"order-{user}" if order is None else order
    moved = {"released": quantity, "reserved": -quantity}.get(kind, 0) if delta is None else delta
    return Entry(SALE, epoch, seq, kind, order, user, quantity, moved, balance, quarantined)


def told(
    code: str,
    user: str,
    seq: int | None,
    sent_at: float,
    answered_at: float,
    *,
    order: str | None = None,
    quantity: int = 1,
    epoch: int = 1,
) -> Operation:
    """An answer; the order of a user is named after the user."""
    if code in (RESERVED, REPLAYED) and order is None:
        order = f"order-{user}"
    return Operation(SALE, epoch, user, order, quantity, code, seq, sent_at, answered_at)


# Three buyers, one after another.
ROWS = [row(1, "ann", balance=4), row(2, "bob", balance=3), row(3, "cid", balance=2)]
TOLD = [told(RESERVED, "ann", 1, 0, 1), told(RESERVED, "bob", 2, 2, 3), told(RESERVED, "cid", 3, 4, 5)]
