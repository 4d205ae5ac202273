"""The rows of a ledger, read again in their order: what was left at each position, and what cannot be."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.client.answers import Position
from loadtests.judge.operations import Entry, Rules

ORDER_KINDS = frozenset({"reserved", "honoured"})


class Holding(NamedTuple):
    units: int
    orders: int


@dataclass(slots=True)
class Replay:
    """The ledger of one sale, replayed: what was left at each position, and what each user had."""

    seqs: dict[int, list[int]]
    balances: dict[int, list[int]]
    last_epoch: int
    made: dict[str, Entry] = field(default_factory=dict)
    at: dict[Position, Entry] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    holdings: defaultdict[str, tuple[list[Position], list[Holding]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    sentences: list[str] = field(default_factory=list)

    def end(self, epoch: int) -> int:
        """The last number of an epoch that has a row."""
        return self.seqs[epoch][-1] if epoch in self.seqs else 0

    def balance(self, position: Position) -> int:
        """What was left there."""
        return self.balances[position.epoch][bisect_right(self.seqs[position.epoch], position.seq) - 1]

    def holding(self, user_id: str, position: Position) -> Holding:
        """What a user had there."""
        positions, holdings = self.holdings[user_id]
        index = bisect_right(positions, position)
        return holdings[index - 1] if index else Holding(0, 0)

    def lost(self, position: Position, order_id: str | None = None) -> bool:
        """Whether a position (of this order) was lost with its epoch."""
        if position.epoch >= self.last_epoch:
            return False
        entry = self.at.get(position)
        return position.seq > self.end(position.epoch) or (entry is not None and order_id not in (None, entry.order_id))


def replay(entries: Iterable[Entry], rules: Rules) -> Replay:
    """Read the rows in their order, and note what cannot be."""
    ledger = Replay(
        {epoch: [0] for epoch in rules.openings},
        {epoch: [opening] for epoch, opening in rules.openings.items()},
        max(rules.openings, default=0),
    )
    waiting = sorted((epoch, order_id) for order_id, epoch in rules.given_back.items())
    for entry in sorted(entries, key=lambda entry: entry.position):
        while waiting and waiting[0][0] <= entry.epoch:
            ledger.sentences += _give_back(ledger, *waiting.pop(0))
        ledger.sentences += _follow(ledger, entry)
        if entry.quarantined:
            ledger.quarantined.add(entry.order_id or "")
        elif entry.order_id is not None and entry.user_id is not None:
            ledger.sentences += _move(ledger, entry, entry.order_id, entry.user_id, rules)
    return ledger


def _follow(ledger: Replay, entry: Entry) -> Iterator[str]:
    if entry.epoch not in ledger.seqs:
        yield f"row {entry.position} is of an epoch that never began"
        ledger.seqs[entry.epoch], ledger.balances[entry.epoch] = [0], [entry.balance - entry.delta]
    seqs, balances = ledger.seqs[entry.epoch], ledger.balances[entry.epoch]
    if entry.seq != seqs[-1] + 1:
        yield f"row {entry.position} follows row {seqs[-1]}"
    if entry.balance != balances[-1] + entry.delta or entry.balance < 0:
        yield f"row {entry.position} has balance {entry.balance} after {balances[-1]} and {entry.delta}"
    seqs.append(entry.seq)
    balances.append(entry.balance)
    ledger.at[entry.position] = entry


def _move(ledger: Replay, entry: Entry, order_id: str, user_id: str, rules: Rules) -> Iterator[str]:
    before = ledger.made.get(order_id)
    had = ledger.holding(user_id, entry.position)
    if entry.kind in ORDER_KINDS:
        if before is not None:
            yield f"order {order_id} was made at {before.position} and again at {entry.position}"
        ledger.made[order_id] = entry
        had = Holding(had.units + entry.quantity, had.orders + 1)
        if had.units > rules.units_per_user or had.orders > rules.orders_per_user:
            yield f"user {user_id} has {had.units} units in {had.orders} orders at {entry.position}"
    else:
        if before is None or (before.user_id, before.quantity) != (user_id, entry.quantity):
            yield f"row {entry.position} releases order {order_id}, which was not made like this before"
        if order_id in ledger.released:
            yield f"order {order_id} is released again at {entry.position}"
        ledger.released.add(order_id)
        had = Holding(had.units - entry.quantity, had.orders)
    positions, holdings = ledger.holdings[user_id]
    positions.append(entry.position)
    holdings.append(had)


def _give_back(ledger: Replay, epoch: int, order_id: str) -> Iterator[str]:
    entry = ledger.made.get(order_id)
    if entry is None or entry.user_id is None or order_id in ledger.released:
        yield f"order {order_id} gave its units back before epoch {epoch}, which it did not hold"
        return
    ledger.released.add(order_id)
    positions, holdings = ledger.holdings[entry.user_id]
    before = holdings[-1]
    positions.append(Position(epoch, 0))
    holdings.append(Holding(before.units - entry.quantity, before.orders))
