"""What a crowd was told, held against the rows: a promise without a row is as wrong as a row without a promise."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from loadtests.crowd.record import Attempt
from loadtests.judge.rows import Row

Click = tuple[str, str | None]


def promises(attempts: Iterable[Attempt]) -> dict[Click, set[str]]:
    """The ids that were promised to each click: a user and a key, or a user without one."""
    ids: defaultdict[Click, set[str]] = defaultdict(set)
    for attempt in attempts:
        if attempt.order_id is not None:
            ids[attempt.user_id, attempt.key].add(attempt.order_id)
    return dict(ids)


def oversold(rows: Iterable[Row], units: int) -> int:
    """I4: the units of live orders beyond the units on sale."""
    return max(0, sum(row.quantity for row in rows if row.live) - units)


def above_limit(rows: Iterable[Row], units_per_user: int) -> set[str]:
    """I5: the users whose live orders have more units than one may have."""
    held: Counter[str] = Counter()
    for row in rows:
        held[row.user_id] += row.quantity * row.live
    return {user_id for user_id, units in held.items() if units > units_per_user}


def is_kept(row: Row | None, user_id: str, quantity: int | None = None) -> bool:
    """I6: whether a promise has its row, of this user and these units. The primary key allows one at most."""
    if row is None or row.user_id != user_id or row.quantity != row.line_quantity:
        return False
    return quantity is None or row.quantity == quantity


def are_unique(promised: Mapping[Click, Collection[str]]) -> bool:
    """I7: whether every click was promised one id, and no id to two clicks."""
    ids = [order_id for each in promised.values() for order_id in each]
    return len(ids) == len(set(ids)) == len(promised)


def unexplained(rows: Mapping[str, Row], explained: Collection[str], *, doubtful: Collection[str] = ()) -> list[str]:
    """I9: the orders that are not explained, nor replace one that is, and whose user is not in doubt.

    An order is explained by an answer that named it, or by an attempt for it whose outcome nobody told. Where the order
    that was asked for is not known, its user is in doubt.
    """
    return [
        order_id
        for order_id, row in rows.items()
        if row.user_id not in doubtful and order_id not in explained and row.replaces not in explained
    ]
