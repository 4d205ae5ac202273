"""What a sale must be: dicts and counts, no Redis, no Postgres. Written to be read, and to predict every answer.

Hours stand for moments. A sale is made at half past zero, so that no window begins or ends while a test runs.
"""

from dataclasses import dataclass, field

OPEN, PAUSED, ENDED, SETTLED = "open", "paused", "ended", "settled"
ORDER_KINDS = ("reserved", "honoured")
APPLIED, RECOVERED = "applied", "recovered"
BEGUN = 0.5

Wish = tuple[bytes, str, int]
"""An order's id, its user, and how many units."""


@dataclass(frozen=True)
class Event:
    """An entry of the stream, or its row."""

    seq: int
    kind: str
    delta: int
    balance: int
    order_id: bytes | None = None
    user: str = ""
    quantity: int = 0
    change: int = 0
    outcome: str = ""
    at: float = field(default=0, compare=False)


@dataclass(frozen=True)
class Held:
    """An order as the ledger knows it."""

    user: str
    quantity: int
    seq: int
    held: bool = True


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
class Change:
    """A numbered change; `first` and `second` are a delta, or the hours of a window."""

    n: int
    kind: str
    first: float = 0
    second: float = 0
    outcome: str | None = None


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
class Ledger:
    """The ledger in Redis. `lost` names the parts that are gone."""

    epoch: int
    units_per_user: int
    orders_per_user: int
    backlog_max: int
    available: int
    starts: float
    ends: float
    held_back: int = 0
    applied: int = 0
    state: str = OPEN
    seq: int = 0
    skew: int = 0
    orders: dict[bytes, Held] = field(default_factory=dict)
    buyers: dict[str, tuple[int, int]] = field(default_factory=dict)
    stream: list[Event] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Half past the hour that the clock shows."""
        return self.skew + BEGUN

    def emit(self, kind: str, delta: int, **fields: str | int | bytes) -> Event:
        """Count one event and write it down."""
        self.seq, self.available = self.seq + 1, self.available + delta
        event = Event(self.seq, kind, delta, self.available, at=self.now, **fields)  # type: ignore[arg-type]
        self.stream.append(event)
        return event

    def reserve(self, wishes: list[Wish], last: tuple[bytes, int] | None, *, honours: bool = False) -> list[str]:
        """The answers to a batch."""
        if last is not None and (last[0] not in self.orders or self.orders[last[0]].seq != last[1]):
            return ["BEHIND"] * len(wishes)
        room = self.backlog_max - len(self.stream)
        before = len(self.stream)
        return [self._reserve(*wish, full=room <= len(self.stream) - before, honours=honours) for wish in wishes]

    def _reserve(self, order_id: bytes, user: str, quantity: int, *, full: bool, honours: bool) -> str:
        if had := self.orders.get(order_id):
            status = "held" if had.held else "released"
            if (had.user, had.quantity) == (user, quantity):
                return f"REPLAYED {had.seq} {had.quantity} {status}"
            return f"MISMATCH {had.seq} {had.quantity} {status}"
        if not (honours and self.state != SETTLED) and (refusal := self._closed(full=full)):
            return f"{refusal} {self.seq}"
        units, made = self.buyers.get(user, (0, 0))
        if units + quantity > self.units_per_user or made >= self.orders_per_user:
            return f"OVER_LIMIT {self.seq} {units}"
        kept = min(self.held_back, quantity) if honours else 0
        if self.available < quantity - kept:
            return f"SOLD_OUT {self.seq} {self.available}"
        self.held_back -= kept
        event = self.emit(
            "honoured" if honours else "reserved", kept - quantity, order_id=order_id, user=user, quantity=quantity
        )
        self.buyers[user] = units + quantity, made + 1
        self.orders[order_id] = Held(user, quantity, event.seq)
        return f"RESERVED {event.seq} {event.balance}"

    def _closed(self, *, full: bool) -> str | None:
        if self.state in (ENDED, SETTLED) or self.now >= self.ends:
            return "ENDED"
        if self.state == PAUSED:
            return "PAUSED"
        if self.now < self.starts:
            return "NOT_OPEN"
        return "BACKLOG" if full else None

    def release(self, pairs: list[tuple[bytes, int]]) -> list[str]:
        """The answers to a batch of closed orders."""
        return ["SETTLED" if self.state == SETTLED else self._release(*pair) for pair in pairs]

    def _release(self, order_id: bytes, seq: int) -> str:
        had = self.orders.get(order_id)
        if had is None or had.seq != seq:
            return "UNKNOWN"
        if not had.held:
            return "ALREADY"
        delta = 0 if self.state == ENDED else had.quantity
        event = self.emit("released", delta, order_id=order_id, user=had.user, quantity=had.quantity)
        units, made = self.buyers[had.user]
        self.buyers[had.user] = max(0, units - had.quantity), made
        self.orders[order_id] = Held(had.user, had.quantity, had.seq, held=False)
        return f"RELEASED {event.seq} {event.balance}"

    def change(self, change: Change) -> str:
        """The answer to a numbered change."""
        if change.n <= self.applied:
            return "ALREADY"
        if change.n != self.applied + 1:
            return f"GAP {self.applied}"
        reason, delta = self._decide(change)
        self.applied = change.n
        event = self.emit(change.kind, delta, change=change.n, outcome=reason or APPLIED)
        return f"REFUSED {event.seq} {reason}" if reason else f"APPLIED {event.seq} {event.balance}"

    def _decide(self, change: Change) -> tuple[str | None, int]:
        kind, over = change.kind, self.state in (ENDED, SETTLED)
        if kind == "settle":
            if self.state != ENDED:
                return "not_ended", 0
            self.state = SETTLED
            return None, 0
        if kind == "restore":
            if self.state == SETTLED or self.held_back == 0:
                return "settled" if self.state == SETTLED else "nothing_held_back", 0
            back, self.held_back = self.held_back, 0
            return None, 0 if self.state == ENDED else back
        if over:
            return "ended", 0
        return self._decide_alive(change)

    def _decide_alive(self, change: Change) -> tuple[str | None, int]:
        match change.kind:
            case "pause" | "resume":
                self.state = PAUSED if change.kind == "pause" else OPEN
            case "window" if self.now >= self.starts and change.first != self.starts:
                return "started", 0
            case "window":
                self.starts, self.ends = change.first, change.second
            case "close":
                self.ends = min(self.ends, self.now)
                self.starts = min(self.starts, self.ends - 0.001)
            case "units" if self.available + change.first < 0:
                return "too_few_units", 0
            case "units":
                return None, int(change.first)
            case "end" if self.now < self.ends:
                return "not_over", 0
            case "end":
                self.state = ENDED
                return None, -self.available
        return None, 0


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


@dataclass
class Model:
    """A whole sale."""

    ledger: Ledger
    postgres: Postgres

    def undrained(self) -> list[Event]:
        """What is in the stream and not yet recorded."""
        return [event for event in self.ledger.stream if event.seq > self.postgres.watermark]

    def drain(self, count: int) -> None:
        """Record up to so many events."""
        for event in self.undrained()[:count]:
            self.postgres.record(event)

    def trim(self) -> None:
        """Drop what is recorded, but for the last."""
        self.ledger.stream = [event for event in self.ledger.stream if event.seq >= self.postgres.watermark]

    def claim(self, epoch: int, order_id: bytes, seq: int, user: str, quantity: int) -> None:
        """Report a reservation; what is there already stays."""
        self.postgres.claims.setdefault((epoch, order_id), Claim(epoch, order_id, seq, user, quantity))

    def recover(self, survived: "Survived", *, highest_seen: int) -> bool:
        """A recovery of what survived, after the reservations were reported; whether a new epoch began."""
        postgres = self.postgres
        for event in survived.readable_after(postgres.watermark):
            postgres.record(event)
        self._sort_claims()
        highest = max([highest_seen, *(claim.seq for claim in postgres.claims.values() if self._is_of_epoch(claim))])
        if survived.is_whole(postgres, highest) and not self._pending():
            return False
        for order_id, entry in survived.orders.items():
            if entry.held and order_id not in postgres.orders:
                self.claim(postgres.epoch, order_id, entry.seq, entry.user, entry.quantity)
        self._sort_claims()
        highest = max([highest_seen, *(claim.seq for claim in postgres.claims.values() if self._is_of_epoch(claim))])
        self._renew(max(highest, survived.seq))
        return True

    def _is_of_epoch(self, claim: Claim) -> bool:
        """Whether the number of a claim is one of this epoch: an order of an earlier one keeps its own."""
        row = self.postgres.orders.get(claim.order_id)
        return claim.epoch == self.postgres.epoch and (row is None or row.epoch == claim.epoch)

    def _sort_claims(self) -> None:
        for claim in self.postgres.claims.values():
            recorded = claim.order_id in self.postgres.orders
            if claim.outcome == "honoured" and not recorded:
                claim.outcome = None
            if claim.outcome is None and recorded:
                claim.outcome = "recorded"

    def _pending(self) -> list[Claim]:
        pending = [claim for claim in self.postgres.claims.values() if claim.outcome is None]
        return sorted(pending, key=lambda claim: (claim.epoch, claim.order_id))

    def _renew(self, highest: int) -> None:
        postgres, old, pending = self.postgres, self.ledger, self._pending()
        explained = {claim.seq for claim in pending if claim.epoch == postgres.epoch and claim.seq > postgres.watermark}
        unexplained = max(highest - postgres.watermark - len(explained), 0)
        wanted = unexplained * old.units_per_user + sum(claim.quantity for claim in pending) + postgres.held_back
        postgres.release_owed()
        postgres.close_open_changes(postgres.units - postgres.units_taken - wanted)
        postgres.held_back = min(postgres.units - postgres.units_taken, wanted)
        opening = postgres.units - postgres.units_taken - postgres.held_back
        postgres.epoch, postgres.watermark, postgres.watermark_balance = postgres.epoch + 1, 0, opening
        postgres.openings[postgres.epoch] = opening
        state = ENDED if postgres.status == ENDED else PAUSED if postgres.paused else OPEN
        self.ledger = Ledger(
            postgres.epoch,
            old.units_per_user,
            old.orders_per_user,
            old.backlog_max,
            opening,
            postgres.starts,
            postgres.ends,
            held_back=postgres.held_back,
            applied=len(postgres.changes),
            skew=old.skew,
            state=state,
            orders={
                order_id: Held(row.user, row.quantity, row.seq, held=not row.released)
                for order_id, row in postgres.orders.items()
            },
            buyers=_buyers(postgres),
        )
        answers = self.ledger.reserve(
            [(claim.order_id, claim.user, claim.quantity) for claim in pending], None, honours=True
        )
        for claim, answer in zip(pending, answers, strict=True):
            claim.outcome = "honoured" if answer.startswith(("RESERVED", "REPLAYED")) else "refused"

    def check(self) -> None:
        """I1–I5 of the design, by number."""
        postgres, ledger = self.postgres, self.ledger
        numbers = [seq for epoch, seq in postgres.ledger if epoch == postgres.epoch]
        numbers += [event.seq for event in self.undrained()]
        assert numbers == list(range(1, ledger.seq + 1)), "I1: gapless"
        balance = postgres.watermark_balance
        for event in self.undrained():
            balance += event.delta
            assert event.balance == balance >= 0, "I2: chain"
        assert ledger.available == balance, "I2: the last balance is what is left"
        live = {order_id: row for order_id, row in postgres.orders.items() if not row.released}
        units = sum(row.quantity for row in live.values())
        granted = sum(int(each.first) for each in postgres.open_changes if each.kind == "units" and each.first > 0)
        assert postgres.watermark_balance + units + postgres.held_back == postgres.units - granted, "I3: conservation"
        assert units == postgres.units_taken <= postgres.units, "I4: no oversell"
        for user in {row.user for row in live.values()}:
            held = sum(row.quantity for row in live.values() if row.user == user)
            assert held <= ledger.units_per_user, "I5: limit"


@dataclass
class Survived:
    """What is left of a ledger after a loss; a part that is missing is empty."""

    stream: list[Event]
    orders: dict[bytes, Held]
    buyers: dict[str, tuple[int, int]]
    sale: Ledger | None
    winners: bool = True

    @property
    def seq(self) -> int:
        """How far the ledger says that it was."""
        return self.sale.seq if self.sale else 0

    def readable_after(self, watermark: int) -> list[Event]:
        """The events that go on from the watermark without a gap; none if the entry there is missing."""
        if watermark and watermark not in {event.seq for event in self.stream}:
            return []
        found, following = [], watermark + 1
        for event in self.stream:
            if event.seq == following:
                found.append(event)
                following += 1
        return found

    def is_whole(self, postgres: Postgres, highest: int) -> bool:
        """Whether this epoch may go on: all was recorded, and agrees."""
        closed = [change.n for change in postgres.changes if change.outcome is not None]
        return (
            self.sale is not None
            and (self.sale.seq, self.sale.available, self.sale.held_back, self.sale.applied)
            == (postgres.watermark, postgres.watermark_balance, postgres.held_back, max(closed, default=0))
            and highest <= self.sale.seq
            and (self.winners or not postgres.orders)
            and len(self.orders) == len(postgres.orders)
            and len(self.buyers) == len({row.user for row in postgres.orders.values()})
            and (not postgres.watermark or postgres.watermark in {event.seq for event in self.stream})
        )


def _buyers(postgres: Postgres) -> dict[str, tuple[int, int]]:
    buyers: dict[str, tuple[int, int]] = {}
    for row in postgres.orders.values():
        units, made = buyers.get(row.user, (0, 0))
        buyers[row.user] = units + (0 if row.released else row.quantity), made + 1
    return buyers
