"""Judge a concurrent history by the numbers in its answers: was there one order of events, and is it the ledger's?

Every answer of a purchase tells its position in the ledger: a receipt the number of the event that made the order, the
witness of a refusal the number of the last event before it. So nobody has to search for an order that explains the
answers, which takes exponential time in general: it is given, and only has to be compared with the clock and replayed.
Linearizability is Herlihy and Wing's ("Linearizability: A Correctness Condition for Concurrent Objects", 1990); that
a given order makes its test a sort is Gibbons and Korach's ("Testing Shared Memories", 1997). O(n log n).

What the shop keeps, and what is checked here, for each sale:

order     Positions are compared by epoch, then by number. A purchase that reserves has a higher one than every answer
          that was there before it was sent. A refusal is at least at the highest of those; "sold out" may come from a
          process's memory, which is as old as its last poll: it is compared with the answers that were there
          `memory_seconds` before it was sent. A repeat tells an old position; what is sent after it must lie above.
rows      Every promised order has exactly one row, with the position, the user and the quantity of its answer. No order
          is reserved twice, no number is given to two orders.
refusals  At its position "sold out" had nothing left, "not enough units" something and too little, and "over limit" a
          user who would have exceeded the limit.
ghosts    A row of which nobody was told belongs to a purchase whose outcome is unknown, one row to each.
ledger    The rows themselves: no gap, each balance follows from the last and is not negative, no user above the limit,
          no order released twice.

After a loss the ledger goes on in a new epoch, unless no order was lost: a change of the sale is then made anew under
its old number, and nobody was promised anything. So what a refusal told before a moment of `losses` binds no answer
that was asked for after it. Numbers that were lost with an epoch (no row has them, or another order's has) are not
judged; their orders are, by the rows that they have in a later epoch. So the ledger must be drained before it is
judged, and all its rows be there.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

from loadtests.client.answers import NOT_ENOUGH_UNITS, OVER_LIMIT, REPLAYED, RESERVED, SOLD_OUT, Position
from loadtests.judge.operations import UNKNOWN, Entry, Operation, Rules
from loadtests.judge.replay import Replay, replay

# Ten times what a latch waits between two polls: a busy process polls late.
MEMORY_SECONDS = 1.0
SENTENCES_MAX = 100


def check_history(
    operations: Iterable[Operation],
    entries: Iterable[Entry],
    rules: Mapping[int, Rules],
    *,
    known: Collection[str] = frozenset(),
    memory_seconds: float = MEMORY_SECONDS,
    losses: Sequence[float] = (),
) -> list[str]:
    """What is wrong with a history, in sentences; none when all is well. At most `SENTENCES_MAX` and how many more.

    `rules` names the sales to judge. `losses` are the moments at which Redis lost what it had written last. `known` are
    orders that others made than the recorded crowd, such as replacements.
    """
    operations_of, entries_of = defaultdict[int, list[Operation]](list), defaultdict[int, list[Entry]](list)
    for operation in operations:
        operations_of[operation.sale_id].append(operation)
    for entry in entries:
        entries_of[entry.sale_id].append(entry)
    found = []
    for sale_id, allowed in rules.items():
        ledger = replay(entries_of[sale_id], allowed)
        order, unknown = _order(operations_of[sale_id], ledger, memory_seconds, losses)
        found += [
            f"sale {sale_id}: {sentence}"
            for sentences in (
                ledger.sentences,
                order,
                _rows(operations_of[sale_id], ledger),
                _refusals(operations_of[sale_id], ledger, allowed),
                _ghosts(operations_of[sale_id], ledger, unknown, known),
            )
            for sentence in sentences
        ]
    if len(found) > SENTENCES_MAX:
        found[SENTENCES_MAX:] = [f"and {len(found) - SENTENCES_MAX} more"]
    return found


def _order(
    operations: Sequence[Operation], ledger: Replay, memory_seconds: float, losses: Sequence[float]
) -> tuple[list[str], list[tuple[Position, Operation]]]:
    """Sweep over the clock with the highest position that was told so far.

    Returns what is out of order, and each operation of unknown outcome with the position that it must lie above.
    """
    told: list[tuple[float, Position, Operation | None]] = [(moment, Position(0, 0), None) for moment in losses]
    told += [(each.answered_at, position, each) for each in operations if (position := _event(each, ledger))]
    told.sort(key=itemgetter(0))
    asked = sorted(
        (operation.sent_at - (memory_seconds if operation.code == SOLD_OUT else 0.0), number)
        for number, operation in enumerate(operations)
        if operation.code != REPLAYED
    )
    sentences, unknown, index = [], [], 0
    highest: tuple[Position, Operation | None] = Position(0, 0), None
    of_orders = highest
    for moment, number in asked:
        while index < len(told) and told[index][0] < moment:
            _, position_told, teller = told[index]
            index += 1
            if teller is None:
                highest = of_orders
                continue
            highest = max(highest, (position_told, teller), key=itemgetter(0))
            if teller.promised:
                of_orders = max(of_orders, (position_told, teller), key=itemgetter(0))
        operation = operations[number]
        position = _event(operation, ledger)
        if operation.code == UNKNOWN:
            unknown.append((highest[0], operation))
        elif position is not None and (
            position < highest[0] or (position == highest[0] and operation.code == RESERVED)
        ):
            sentences.append(f"{operation} was sent after {highest[1]} had come")
    return sentences, unknown


def _event(operation: Operation, ledger: Replay) -> Position | None:
    """The position that an answer tells of, if it was not lost with its epoch."""
    position = operation.position
    if operation.code == REPLAYED:
        # An order that a recovery took over keeps the number of the epoch in which it was made.
        entry = ledger.made.get(operation.order_id or "")
        if entry is None or entry.seq != operation.seq or entry.epoch > operation.epoch:
            return None
        return entry.position
    order_id = operation.order_id if operation.code == RESERVED else None
    return None if position is None or ledger.lost(position, order_id) else position


def _rows(operations: Iterable[Operation], ledger: Replay) -> Iterator[str]:
    """Each promise against the row of its order."""
    order_at: dict[Position, str] = {}
    reserved: set[tuple[int, str]] = set()
    for operation in operations:
        if not operation.promised:
            continue
        order_id, position = operation.order_id, operation.position
        if order_id is None or position is None:
            yield f"{operation} does not say which order it is, or where it was made"
            continue
        if order_id in ledger.quarantined:
            continue
        if operation.code == RESERVED:
            if (operation.epoch, order_id) in reserved:
                yield f"{operation} was given before: the order was reserved twice"
            reserved.add((operation.epoch, order_id))
            if not ledger.lost(position, order_id) and order_at.setdefault(position, order_id) != order_id:
                yield f"{operation} has the number of order {order_at[position]}"
        entry = ledger.made.get(order_id)
        if entry is None:
            yield f"{operation} has no row"
        elif (entry.user_id, entry.quantity) != (operation.user_id, operation.quantity):
            yield f"{operation} has a row for {entry.quantity} units of user {entry.user_id}"
        elif entry.position != position and not _agrees(operation, position, entry, ledger):
            yield f"{operation} has its row at {entry.position}"


def _agrees(operation: Operation, position: Position, entry: Entry, ledger: Replay) -> bool:
    """Whether a row at another position may still be the one: the first was lost, or it is an older epoch's."""
    if entry.epoch > operation.epoch:
        return ledger.lost(position, operation.order_id)
    return operation.code == REPLAYED and entry.epoch < operation.epoch and entry.seq == operation.seq


def _refusals(operations: Iterable[Operation], ledger: Replay, rules: Rules) -> Iterator[str]:
    """Each refusal that names a position against what was true there."""
    for operation in operations:
        position = operation.position
        if position is None or operation.promised or operation.code == UNKNOWN or ledger.lost(position):
            continue
        if position.epoch not in ledger.seqs or position.seq > ledger.end(position.epoch):
            yield f"{operation} is beyond the last row"
            continue
        left, had = ledger.balance(position), ledger.holding(operation.user_id, position)
        if operation.code == SOLD_OUT and left != 0:
            yield f"{operation} was given with {left} units left"
        elif operation.code == NOT_ENOUGH_UNITS and not 0 < left < operation.quantity:
            yield f"{operation} was given with {left} units left for {operation.quantity}"
        elif (
            operation.code == OVER_LIMIT
            and had.units + operation.quantity <= rules.units_per_user
            and had.orders < rules.orders_per_user
        ):
            yield f"{operation} was given with {had.units} units in {had.orders} orders for {operation.quantity}"


def _ghosts(
    operations: Iterable[Operation],
    ledger: Replay,
    unknown: Iterable[tuple[Position, Operation]],
    known: Collection[str],
) -> Iterator[str]:
    """Give each row of which nobody was told to a purchase of unknown outcome that may have made it.

    Of those that fit, the one that was sent first is taken: it must lie above the fewest positions.
    """
    told = {operation.order_id for operation in operations if operation.code != UNKNOWN}
    above_of: defaultdict[tuple[str, int, str | None], list[Position]] = defaultdict(list)
    for above, operation in unknown:
        above_of[operation.user_id, operation.quantity, operation.order_id].append(above)
    used: defaultdict[tuple[str, int, str | None], int] = defaultdict(int)
    for entry in sorted(ledger.made.values(), key=lambda entry: entry.position):
        order_id, user_id = entry.order_id, entry.user_id or ""
        if order_id in told or order_id in known:
            continue
        for wish in ((user_id, entry.quantity, order_id), (user_id, entry.quantity, None)):
            fitting = above_of[wish]
            if used[wish] < len(fitting) and fitting[used[wish]] < entry.position:
                used[wish] += 1
                break
        else:
            yield f"order {order_id} of user {user_id} at {entry.position} was told to nobody and asked for by nobody"
