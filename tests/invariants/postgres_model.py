"""What Postgres must hold of a sale: its row, its orders, its changes, and the events that it has recorded."""

from dataclasses import dataclass, field

from tests.invariants.ledger_model import APPLIED, BEGUN, ENDED, ORDER_KINDS, RECOVERED, SETTLED, Change, Event


@dataclass
class Row:
    """An order as Postgres knows it."""

    user: str
    quantity: int
    epoch: int
    seq: int
    status: str = "reserved"
    closed: bool = False
    released: bool = False


@dataclass
class Claim:
    """A reservation that was reported to a recovery."""

    epoch: int
    order_id: bytes
    seq: int
    user: str
    quantity: int
    outcome: str | None = None


@dataclass
class Postgres:
    """The rows of the sale, its orders, its changes, its ledger and the reservations that were reported."""

    units: int
    stock: int
    starts: float
    ends: float
    watermark_balance: int
    status: str = "scheduled"
    paused: bool = False
    epoch: int = 1
    watermark: int = 0
    units_taken: int = 0
    held_back: int = 0
    orders: dict[bytes, Row] = field(default_factory=dict)
    ledger: dict[tuple[int, int], Event] = field(default_factory=dict)
    openings: dict[int, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    claims: dict[tuple[int, bytes], Claim] = field(default_factory=dict)

    @property
    def open_changes(self) -> list[Change]:
        """Those that no event has closed."""
        return [change for change in self.changes if change.outcome is None]

    def number(self, kind: str, first: float = 0, second: float = 0) -> Change:
        """Ask for a change. More units are granted at once."""
        change = Change(len(self.changes) + 1, kind, first, second)
        self.changes.append(change)
        if kind == "units" and first > 0:
            self.units, self.stock = self.units + int(first), self.stock - int(first)
        return change

    def record(self, event: Event) -> None:
        """Write one event down, and do what follows from it."""
        self.ledger[self.epoch, event.seq] = event
        self.watermark, self.watermark_balance = event.seq, event.balance
        if event.kind in ORDER_KINDS and event.order_id is not None:
            assert event.order_id not in self.orders
            self.orders[event.order_id] = Row(event.user, event.quantity, self.epoch, event.seq)
            self.units_taken += event.quantity
            self.held_back -= event.quantity + event.delta
        elif event.kind == "released" and event.order_id is not None:
            row = self.orders[event.order_id]
            assert row.closed
            assert not row.released
            row.released = True
            self.units_taken -= event.quantity
            if event.delta == 0:
                self.return_units(event.quantity)
        else:
            self.close_change(self.changes[event.change - 1], event.outcome, event.delta, event.at)

    def return_units(self, units: int) -> None:
        """Units that the sale no longer has are the product's."""
        self.units, self.stock = self.units - units, self.stock + units

    def close_change(self, change: Change, outcome: str, delta: int, at: float) -> None:
        """What the ledger made of a change."""
        assert change.outcome is None
        change.outcome = outcome
        if outcome != APPLIED:
            if change.kind == "units" and change.first > 0:
                self.return_units(int(change.first))
            return
        match change.kind:
            case "pause" | "resume":
                self.paused = change.kind == "pause"
            case "window":
                self.starts, self.ends = change.first, change.second
            case "close":
                self.ends = min(self.ends, at)
                self.starts = min(self.starts, self.ends - 0.001)
            case "units" if delta < 0:
                self.return_units(-delta)
            case "end":
                self.status = ENDED
                self.return_units(-delta)
            case "settle":
                self.status = SETTLED
            case "restore":
                if delta == 0:
                    self.return_units(self.held_back)
                self.held_back = 0

    def release_owed(self) -> None:
        """Take back what closed orders owe: the lost ledger may have done so, and sold the units again."""
        for row in self.orders.values():
            if self.status == "scheduled" and row.closed and not row.released:
                row.released = True
                self.units_taken -= row.quantity

    def close_open_changes(self, spare: int) -> None:
        """Close what was under way when the ledger was lost, as the new ledger will have applied it."""
        for change in self.open_changes:
            delta, outcome = int(change.first) if change.kind == "units" else 0, APPLIED
            if change.kind in ("end", "settle", "restore"):
                outcome = RECOVERED
            elif self.status != "scheduled":
                outcome = "ended"
            elif delta < 0:
                outcome = APPLIED if spare + delta >= 0 else "too_few_units"
                spare += delta if outcome == APPLIED else 0
            self.close_change(change, outcome, delta, BEGUN)  # by the clock of Postgres, which is right
