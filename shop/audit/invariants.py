"""The rules I1–I6, each written once. Both passes of the audit, the full one and the one that goes on, ask them here.

They look at numbers that were read before, and touch nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shop.audit.repository import Part, Unpaired
from shop.ledger.client import LedgerState
from shop.ledger.events import LedgerEvent
from shop.sales.models import Sale, SaleStatus

INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6")
SENTENCES_MAX = 20  # of one invariant; the first ones tell the story

Violations = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Position:
    """A position in a ledger, and the sums of its rows up to there."""

    epoch: int
    seq: int
    balance: int
    units_taken: int
    held_back: int
    quarantined: int

    def after(self, part: Part) -> "Position":
        """The position after these rows."""
        return Position(
            epoch=self.epoch,
            seq=max(self.seq, part.last_seq),
            balance=self.balance + part.delta,
            units_taken=self.units_taken + part.taken,
            held_back=0 if part.restored else self.held_back - part.held_back_taken,
            quarantined=self.quarantined - part.quarantined_delta,
        )


@dataclass(frozen=True)
class InRedis:
    """The ledger and its events above the watermark, at one moment; `complete` when those are all that there are.

    `readable` is False when one of them cannot be read; then there are none here.
    """

    state: LedgerState | None
    undrained: Sequence[LedgerEvent] = ()
    complete: bool = True
    readable: bool = True


@dataclass(frozen=True)
class Counted:
    """What is known of a sale at one watermark, and how it was counted does not matter here.

    `part` are the rows from `start` on, `position` is the one after them. `live` are the units of orders that are
    not back, `most_units` those of the user who has most.
    """

    sale: Sale
    granted: int
    start: Position
    part: Part
    position: Position
    live: int
    held_back: int
    most_units: int
    broken_epochs: Sequence[int] = ()
    unpaired: Unpaired = field(default_factory=Unpaired)

    @property
    def expected_rows(self) -> int:
        """How many rows there must be from `start` on: up to the watermark, or as many as were asked for."""
        return min(self.sale.watermark - self.start.seq, self.part.rows_max)

    @property
    def at_watermark(self) -> bool:
        """Whether the rows reach up to the watermark, where the sums can be compared with the guard row."""
        return self.start.seq + self.expected_rows == self.sale.watermark

    @property
    def units(self) -> int:
        """The units on sale that the ledger knows of."""
        return self.sale.units - self.granted

    @property
    def as_verified(self) -> Position:
        """The verified position when all of this holds."""
        return replace(self.position, units_taken=self.live, held_back=self.held_back)


def violations(counted: Counted, in_redis: InRedis | None) -> Violations:
    """What does not hold, as sentences by invariant; an empty list means that it holds."""
    found = {
        "I1": _gaps(counted),
        "I2": _breaks(counted),
        "I3": _conservation(counted) if counted.at_watermark else [],
        "I4": _oversell(counted) if counted.at_watermark else [],
        "I5": _limit(counted),
        "I6": _promises(counted),
    }
    if in_redis is not None and counted.at_watermark:
        found["I1"] += _stream_gaps(counted.sale, in_redis)
        found["I2"] += _stream_breaks(counted.sale, in_redis)
    return {name: sentences[:SENTENCES_MAX] for name, sentences in found.items()}


def sentences_of(found: Violations) -> list[str]:
    """All that does not hold, each sentence with the number of its invariant before it."""
    return [f"{name}: {sentence}" for name, sentences in found.items() for sentence in sentences]


def _gaps(counted: Counted) -> list[str]:
    """I1: the numbers in Postgres are 1..n, each once."""
    part, start = counted.part, counted.start
    found = [f"the rows of epoch {epoch} have a gap or do not add up" for epoch in counted.broken_epochs]
    if counted.sale.watermark < start.seq:
        return [*found, f"the watermark is {counted.sale.watermark}, and {start.seq} was verified"]
    last = start.seq + counted.expected_rows
    if part.rows != counted.expected_rows or (part.rows and (part.first_seq, part.last_seq) != (start.seq + 1, last)):
        found.append(
            f"{part.rows} rows from {part.first_seq} to {part.last_seq}, not those from {start.seq + 1} to {last},"
            f" at watermark {counted.sale.watermark}"
        )
    return found


def _breaks(counted: Counted) -> list[str]:
    """I2: each balance is the one before it plus its delta, and the guard row has the last one."""
    part, sale = counted.part, counted.sale
    found = []
    if part.broken_balances or part.negative_balances:
        found.append(f"{part.broken_balances} balances do not add up, {part.negative_balances} are negative")
    if counted.at_watermark and sale.watermark_balance != counted.position.balance:
        found.append(f"the guard has balance {sale.watermark_balance}, the rows lead to {counted.position.balance}")
    return found


def _conservation(counted: Counted) -> list[str]:
    """I3: every unit is somewhere, and only once."""
    sale, position = counted.sale, counted.position
    total = position.balance + counted.live + counted.held_back + position.quarantined
    found = [] if total == counted.units else [f"{total} units are counted, {counted.units} are on sale"]
    if counted.held_back != sale.held_back:
        found.append(f"the guard holds {sale.held_back} units back, the rows lead to {counted.held_back}")
    return found


def _oversell(counted: Counted) -> list[str]:
    """I4: the units of live orders never exceed the sale's units, and the guard row counts the same."""
    live, sale = counted.live, counted.sale
    found = [] if live <= sale.units else [f"{live} units are sold of {sale.units}"]
    return found if live == sale.units_taken else [*found, f"the guard counts {sale.units_taken}, the orders {live}"]


def _limit(counted: Counted) -> list[str]:
    """I5: no user has more live units than the sale allows."""
    most, allowed = counted.most_units, counted.sale.units_per_user
    return [] if most <= allowed else [f"one user has {most} units, {allowed} are allowed"]


def _promises(counted: Counted) -> list[str]:
    """I6: each reservation that is recorded has its order, to this user with these units; each release its mark.

    And each order has its line, where that was counted.
    """
    part, unpaired = counted.part, counted.unpaired
    sentences = {
        f"{part.unmatched} reservations have no order like them": part.unmatched,
        f"{part.unreleased} releases have an order that is not released": part.unreleased,
        f"{unpaired.orders} orders have no line": unpaired.orders,
        f"{unpaired.lines} lines have no order": unpaired.lines,
    }
    return [sentence for sentence, count in sentences.items() if count]


def chain_breaks(sale: Sale, events: Sequence[LedgerEvent]) -> tuple[list[str], list[str]]:
    """Where the events above the watermark do not follow each other: in their numbers, in their balances."""
    gaps, breaks = [], []
    if [event.seq for event in events] != list(range(sale.watermark + 1, sale.watermark + 1 + len(events))):
        gaps.append(f"the stream does not go on from {sale.watermark + 1} without a gap")
    balance = sale.watermark_balance
    for event in events:
        if event.balance != balance + event.delta or event.balance < 0:
            breaks.append(f"entry {event.seq} has balance {event.balance} after {balance} and {event.delta}")
        balance = event.balance
    return gaps, breaks


def _stream_gaps(sale: Sale, in_redis: InRedis) -> list[str]:
    """I1, above the watermark: the events go on without a gap, up to where the ledger is."""
    state, events = in_redis.state, in_redis.undrained
    found, _ = chain_breaks(sale, events)
    if sale.status == SaleStatus.SETTLED:
        return found
    if state is None:
        found.append("the ledger is missing in Redis")
    elif in_redis.complete and state.seq != sale.watermark + len(events):
        found.append(f"the ledger is at {state.seq}, the stream ends at {sale.watermark + len(events)}")
    return found


def _stream_breaks(sale: Sale, in_redis: InRedis) -> list[str]:
    """I2, above the watermark: the chain goes on, and the ledger has what it leads to."""
    state, events = in_redis.state, in_redis.undrained
    _, found = chain_breaks(sale, events)
    if state is None or not in_redis.complete:
        return found
    balance = events[-1].balance if events else sale.watermark_balance
    held_back = sale.held_back
    for event in events:
        held_back = _held_back_after(event, held_back)
    if state.held_back != held_back:
        found.append(f"Redis holds {state.held_back} units back, its events lead to {held_back}")
    if state.available != balance:
        found.append(f"Redis has {state.available} units available, its events lead to {balance}")
    return found


def _held_back_after(event: LedgerEvent, held_back: int) -> int:
    if event.kind == "honoured":
        return held_back - event.quantity - event.delta
    return 0 if event.kind == "restore" and event.outcome == "applied" else held_back
