"""What the ledger in Redis must be: a batch, a release or a change in, the answers out, and each is one event."""

from dataclasses import dataclass, field, replace

OPEN, PAUSED, ENDED, SETTLED = "open", "paused", "ended", "settled"
ORDER_KINDS = ("reserved", "honoured")
APPLIED, RECOVERED = "applied", "recovered"
BEGUN = 0.5
Wish = tuple[bytes, str, int]
"""An order's id, its user, and how many units."""


@dataclass(frozen=True)
class Event:
    """An event in the stream, or its row; `entry` is the number of the entry that it is in."""

    seq: int
    kind: str
    delta: int
    balance: int
    order_id: bytes | None = None
    user: str = ""
    quantity: int = 0
    change: int = 0
    outcome: str = ""
    entry: int = 0
    at: float = field(default=0, compare=False)


@dataclass(frozen=True)
class Held:
    """An order as the ledger knows it."""

    user: str
    quantity: int
    seq: int
    held: bool = True


@dataclass
class Change:
    """A numbered change; `first` and `second` are a delta, or the hours of a window."""

    n: int
    kind: str
    first: float = 0
    second: float = 0
    outcome: str | None = None


@dataclass
class Ledger:
    """The ledger in Redis. `lost` names the parts that are gone."""

    epoch: int
    units_per_user: int
    orders_per_user: int
    backlog_max: int
    format: int
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
        event = Event(self.seq, kind, delta, self.available, at=self.now, entry=self.seq, **fields)  # type: ignore[arg-type]
        self.stream.append(event)
        return event

    def reserve(self, wishes: list[Wish], last: tuple[bytes, int] | None, *, honours: bool = False) -> list[str]:
        """The answers to a batch."""
        if last is not None and (last[0] not in self.orders or self.orders[last[0]].seq != last[1]):
            return ["BEHIND"] * len(wishes)
        room = self.backlog_max - len(self.stream)
        before = len(self.stream)
        answers = [self._reserve(*wish, full=room <= len(self.stream) - before, honours=honours) for wish in wishes]
        self._put_together(before)
        return answers

    def _put_together(self, before: int) -> None:
        """In format 2 the events of a call are one entry, with the number of the last."""
        if self.format == 2:
            events = [replace(event, entry=self.seq) for event in self.stream[before:]]
            self.stream[before:] = events

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
        before = len(self.stream)
        answers = ["SETTLED" if self.state == SETTLED else self._release(*pair) for pair in pairs]
        self._put_together(before)
        return answers

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
