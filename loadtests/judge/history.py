"""Judge a concurrent history by the numbers in its answers: was there one order of events, and is it the ledger's?

Every answer of a purchase tells its place in the ledger: a receipt the number of the event that made the order, the
witness of a refusal the number of the last event before it. So nobody has to search for an order that explains the
answers, which takes exponential time in general: it is given, and only has to be compared with the clock and replayed.
Linearizability is Herlihy and Wing's ("Linearizability: A Correctness Condition for Concurrent Objects", 1990); that
a given order makes its test a sort is Gibbons and Korach's ("Testing Shared Memories", 1997). O(n log n).

What the shop keeps, and what is checked here, for each sale:

order     Places are compared by epoch, then by number. A purchase that reserves has a higher place than every answer
          that was there before it was sent. A refusal is at least at the highest of those places; "sold out" may come
          from a process's memory, which is as old as its last poll: it is compared with the answers that were there
          `memory_seconds` before it was sent. A repeat tells an old place; what is sent after it must lie above.
rows      Every promised order has exactly one row, with the place, the user and the quantity of its answer. No order
          is reserved twice, no number is given to two orders.
refusals  "Sold out" had nothing left at its place, "not enough units" something and too little, and "over limit" a user
          who would have exceeded the limit.
ghosts    A row of which nobody was told belongs to a purchase whose outcome is unknown, one row to each.
ledger    The rows themselves: no gap, each balance follows from the last and is not negative, no user above the limit,
          no order released twice.

After a loss the ledger goes on in a new epoch. Numbers that were lost with an epoch (no row has them, or another
order's has) are not judged; their orders are, by the rows that they have in a later epoch. So the ledger must be
drained before it is judged, and all its rows be there.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.client.answers import NOT_ENOUGH_UNITS, OVER_LIMIT, REPLAYED, RESERVED, SOLD_OUT

UNKNOWN = "unknown"

ORDER_KINDS = frozenset({"reserved", "honoured"})
# Ten times what a latch waits between two polls: a busy process polls late.
MEMORY_SECONDS = 1.0
SENTENCES_MAX = 100


class Place(NamedTuple):
    """Right after this event of this epoch; number 0 is the beginning of the epoch."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One purchase and what came of it; the times are those of one monotonic clock, in seconds.

    `code` is `reserved`, `replayed`, `unknown` (executed or not) or a refusal's. An answer without a statement has no
    `seq`. `order_id` may be given for an unknown outcome, if the order that was asked for is known.
    """

    sale_id: int
    epoch: int
    user_id: str
    order_id: str | None
    quantity: int
    code: str
    seq: int | None
    sent_at: float
    answered_at: float

    @property
    def place(self) -> Place | None:
        """What the answer says about its place."""
        return None if self.seq is None else Place(self.epoch, self.seq)

    @property
    def promised(self) -> bool:
        """Whether it was told of an order."""
        return self.code in (RESERVED, REPLAYED)

    def __str__(self) -> str:
        place = "" if self.seq is None else f" at {self.epoch}.{self.seq}"
        order = "" if self.order_id is None else f" for order {self.order_id}"
        return f"the answer {self.code}{place} to {self.user_id}{order}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger. A quarantined one is evidence: it made no order and moved no user's units."""

    sale_id: int
    epoch: int
    seq: int
    kind: str
    order_id: str | None
    user_id: str | None
    quantity: int
    delta: int
    balance: int
    quarantined: bool = False

    @property
    def place(self) -> Place:
        """The place that it made."""
        return Place(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a sale allows, what each of its epochs began with, and which orders gave their units back between two.

    `given_back` has those that a recovery released when it began an epoch, without an event: the lost ledger may have
    released them already.
    """

    units_per_user: int
    orders_per_user: int
    openings: Mapping[int, int]
    given_back: Mapping[str, int] = field(default_factory=dict)


def check_history(
    attempts: Iterable[Attempt],
    entries: Iterable[Entry],
    rules: Mapping[int, Rules],
    *,
    known: Collection[str] = frozenset(),
    memory_seconds: float = MEMORY_SECONDS,
) -> list[str]:
    """What is wrong with a history, in sentences; none when all is well. At most `SENTENCES_MAX` and how many more.

    `rules` names the sales to judge. `known` are orders that others made than the recorded crowd, such as replacements.
    """
    attempts_of, entries_of = defaultdict[int, list[Attempt]](list), defaultdict[int, list[Entry]](list)
    for attempt in attempts:
        attempts_of[attempt.sale_id].append(attempt)
    for entry in entries:
        entries_of[entry.sale_id].append(entry)
    found = []
    for sale_id, allowed in rules.items():
        ledger = _replay(entries_of[sale_id], allowed)
        order, unknown = _order(attempts_of[sale_id], ledger, memory_seconds)
        found += [
            f"sale {sale_id}: {sentence}"
            for sentences in (
                ledger.sentences,
                order,
                _rows(attempts_of[sale_id], ledger),
                _refusals(attempts_of[sale_id], ledger, allowed),
                _ghosts(attempts_of[sale_id], ledger, unknown, known),
            )
            for sentence in sentences
        ]
    if len(found) > SENTENCES_MAX:
        found[SENTENCES_MAX:] = [f"and {len(found) - SENTENCES_MAX} more"]
    return found


class _Holding(NamedTuple):
    units: int
    orders: int


@dataclass(slots=True)
class _Ledger:
    """The ledger of one sale, replayed: what was left at each place, and what each user had."""

    seqs: dict[int, list[int]]
    balances: dict[int, list[int]]
    last_epoch: int
    made: dict[str, Entry] = field(default_factory=dict)
    at: dict[Place, Entry] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    holdings: defaultdict[str, tuple[list[Place], list[_Holding]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    sentences: list[str] = field(default_factory=list)

    def end(self, epoch: int) -> int:
        """The last number of an epoch that has a row."""
        return self.seqs[epoch][-1] if epoch in self.seqs else 0

    def balance(self, place: Place) -> int:
        """What was left there."""
        return self.balances[place.epoch][bisect_right(self.seqs[place.epoch], place.seq) - 1]

    def holding(self, user_id: str, place: Place) -> _Holding:
        """What a user had there."""
        places, holdings = self.holdings[user_id]
        index = bisect_right(places, place)
        return holdings[index - 1] if index else _Holding(0, 0)

    def lost(self, place: Place, order_id: str | None = None) -> bool:
        """Whether a place (of this order) was lost with its epoch."""
        if place.epoch >= self.last_epoch:
            return False
        entry = self.at.get(place)
        return place.seq > self.end(place.epoch) or (entry is not None and order_id not in (None, entry.order_id))


def _replay(entries: Iterable[Entry], rules: Rules) -> _Ledger:
    """Read the rows in their order, and note what cannot be."""
    ledger = _Ledger(
        {epoch: [0] for epoch in rules.openings},
        {epoch: [opening] for epoch, opening in rules.openings.items()},
        max(rules.openings, default=0),
    )
    waiting = sorted((epoch, order_id) for order_id, epoch in rules.given_back.items())
    for entry in sorted(entries, key=lambda entry: entry.place):
        while waiting and waiting[0][0] <= entry.epoch:
            ledger.sentences += _give_back(ledger, *waiting.pop(0))
        ledger.sentences += _follow(ledger, entry)
        if entry.quarantined:
            ledger.quarantined.add(entry.order_id or "")
        elif entry.order_id is not None and entry.user_id is not None:
            ledger.sentences += _move(ledger, entry, entry.order_id, entry.user_id, rules)
    return ledger


def _follow(ledger: _Ledger, entry: Entry) -> Iterator[str]:
    if entry.epoch not in ledger.seqs:
        yield f"row {entry.place} is of an epoch that never began"
        ledger.seqs[entry.epoch], ledger.balances[entry.epoch] = [0], [entry.balance - entry.delta]
    seqs, balances = ledger.seqs[entry.epoch], ledger.balances[entry.epoch]
    if entry.seq != seqs[-1] + 1:
        yield f"row {entry.place} follows row {seqs[-1]}"
    if entry.balance != balances[-1] + entry.delta or entry.balance < 0:
        yield f"row {entry.place} has balance {entry.balance} after {balances[-1]} and {entry.delta}"
    seqs.append(entry.seq)
    balances.append(entry.balance)
    ledger.at[entry.place] = entry


def _move(ledger: _Ledger, entry: Entry, order_id: str, user_id: str, rules: Rules) -> Iterator[str]:
    before = ledger.made.get(order_id)
    had = ledger.holding(user_id, entry.place)
    if entry.kind in ORDER_KINDS:
        if before is not None:
            yield f"order {order_id} was made at {before.place} and again at {entry.place}"
        ledger.made[order_id] = entry
        had = _Holding(had.units + entry.quantity, had.orders + 1)
        if had.units > rules.units_per_user or had.orders > rules.orders_per_user:
            yield f"user {user_id} has {had.units} units in {had.orders} orders at {entry.place}"
    else:
        if before is None or (before.user_id, before.quantity) != (user_id, entry.quantity):
            yield f"row {entry.place} releases order {order_id}, which was not made like this before"
        if order_id in ledger.released:
            yield f"order {order_id} is released again at {entry.place}"
        ledger.released.add(order_id)
        had = _Holding(had.units - entry.quantity, had.orders)
    places, holdings = ledger.holdings[user_id]
    places.append(entry.place)
    holdings.append(had)


def _give_back(ledger: _Ledger, epoch: int, order_id: str) -> Iterator[str]:
    entry = ledger.made.get(order_id)
    if entry is None or entry.user_id is None or order_id in ledger.released:
        yield f"order {order_id} gave its units back before epoch {epoch}, which it did not hold"
        return
    ledger.released.add(order_id)
    places, holdings = ledger.holdings[entry.user_id]
    before = holdings[-1]
    places.append(Place(epoch, 0))
    holdings.append(_Holding(before.units - entry.quantity, before.orders))


def _order(
    attempts: Sequence[Attempt], ledger: _Ledger, memory_seconds: float
) -> tuple[list[str], list[tuple[Place, Attempt]]]:
    """Sweep over the clock with the highest place that was told so far.

    Returns what is out of order, and each attempt of unknown outcome with the place that it must lie above.
    """
    told = sorted(
        ((attempt.answered_at, place, attempt) for attempt in attempts if (place := _event(attempt, ledger))),
        key=lambda each: each[0],
    )
    asked = sorted(
        (attempt.sent_at - (memory_seconds if attempt.code == SOLD_OUT else 0.0), number)
        for number, attempt in enumerate(attempts)
        if attempt.code != REPLAYED
    )
    sentences, unknown, highest, teller, position = [], [], Place(0, 0), None, 0
    for moment, number in asked:
        while position < len(told) and told[position][0] < moment:
            if told[position][1] > highest:
                _, highest, teller = told[position]
            position += 1
        attempt = attempts[number]
        place = _event(attempt, ledger)
        if attempt.code == UNKNOWN:
            unknown.append((highest, attempt))
        elif place is not None and (place < highest or (place == highest and attempt.code == RESERVED)):
            sentences.append(f"{attempt} was sent after {teller} had come")
    return sentences, unknown


def _event(attempt: Attempt, ledger: _Ledger) -> Place | None:
    """The place that an answer tells of, if it was not lost with its epoch."""
    place = attempt.place
    if attempt.code == REPLAYED:
        # An order that a recovery took over keeps the number of the epoch in which it was made.
        entry = ledger.made.get(attempt.order_id or "")
        return entry.place if entry is not None and entry.seq == attempt.seq and entry.epoch <= attempt.epoch else None
    order_id = attempt.order_id if attempt.code == RESERVED else None
    return None if place is None or ledger.lost(place, order_id) else place


def _rows(attempts: Iterable[Attempt], ledger: _Ledger) -> Iterator[str]:
    """Each promise against the row of its order."""
    order_at: dict[Place, str] = {}
    reserved: set[tuple[int, str]] = set()
    for attempt in attempts:
        if not attempt.promised:
            continue
        order_id, place = attempt.order_id, attempt.place
        if order_id is None or place is None:
            yield f"{attempt} does not say which order it is, or where it was made"
            continue
        if order_id in ledger.quarantined:
            continue
        if attempt.code == RESERVED:
            if (attempt.epoch, order_id) in reserved:
                yield f"{attempt} was given before: the order was reserved twice"
            reserved.add((attempt.epoch, order_id))
            if not ledger.lost(place, order_id) and order_at.setdefault(place, order_id) != order_id:
                yield f"{attempt} has the number of order {order_at[place]}"
        entry = ledger.made.get(order_id)
        if entry is None:
            yield f"{attempt} has no row"
        elif (entry.user_id, entry.quantity) != (attempt.user_id, attempt.quantity):
            yield f"{attempt} has a row for {entry.quantity} units of user {entry.user_id}"
        elif entry.place != place and not _agrees(attempt, place, entry, ledger):
            yield f"{attempt} has its row at {entry.place}"


def _agrees(attempt: Attempt, place: Place, entry: Entry, ledger: _Ledger) -> bool:
    """Whether a row at another place may still be the one: the first place was lost, or it is an older epoch's."""
    if entry.epoch > attempt.epoch:
        return ledger.lost(place, attempt.order_id)
    return attempt.code == REPLAYED and entry.epoch < attempt.epoch and entry.seq == attempt.seq


def _refusals(attempts: Iterable[Attempt], ledger: _Ledger, rules: Rules) -> Iterator[str]:
    """Each refusal that names a place against what was true there."""
    for attempt in attempts:
        place = attempt.place
        if place is None or attempt.promised or attempt.code == UNKNOWN or ledger.lost(place):
            continue
        if place.epoch not in ledger.seqs or place.seq > ledger.end(place.epoch):
            yield f"{attempt} is beyond the last row"
            continue
        left, had = ledger.balance(place), ledger.holding(attempt.user_id, place)
        if attempt.code == SOLD_OUT and left != 0:
            yield f"{attempt} was given with {left} units left"
        elif attempt.code == NOT_ENOUGH_UNITS and not 0 < left < attempt.quantity:
            yield f"{attempt} was given with {left} units left for {attempt.quantity}"
        elif (
            attempt.code == OVER_LIMIT
            and had.units + attempt.quantity <= rules.units_per_user
            and had.orders < rules.orders_per_user
        ):
            yield f"{attempt} was given with {had.units} units in {had.orders} orders for {attempt.quantity}"


def _ghosts(
    attempts: Iterable[Attempt], ledger: _Ledger, unknown: Iterable[tuple[Place, Attempt]], known: Collection[str]
) -> Iterator[str]:
    """Give each row of which nobody was told to a purchase of unknown outcome that may have made it.

    Of those that fit, the one that was sent first is taken: it must lie above the fewest places.
    """
    told = {attempt.order_id for attempt in attempts if attempt.code != UNKNOWN}
    above_of: defaultdict[tuple[str, int, str | None], list[Place]] = defaultdict(list)
    for above, attempt in unknown:
        above_of[attempt.user_id, attempt.quantity, attempt.order_id].append(above)
    used: defaultdict[tuple[str, int, str | None], int] = defaultdict(int)
    for entry in sorted(ledger.made.values(), key=lambda entry: entry.place):
        order_id, user_id = entry.order_id, entry.user_id or ""
        if order_id in told or order_id in known:
            continue
        for wish in ((user_id, entry.quantity, order_id), (user_id, entry.quantity, None)):
            fitting = above_of[wish]
            if used[wish] < len(fitting) and fitting[used[wish]] < entry.place:
                used[wish] += 1
                break
        else:
            yield f"order {order_id} of user {user_id} at {entry.place} was told to nobody and asked for by nobody"
