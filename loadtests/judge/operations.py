"""A history: what was asked of a sale and answered, what its ledger has recorded, and by which rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.client.answers import REPLAYED, RESERVED, Position
from loadtests.client.http import ConnectError
from loadtests.crowd.record import Attempt

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
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
    def position(self) -> Position | None:
        """What the answer says about its position."""
        return None if self.seq is None else Position(self.epoch, self.seq)

    @property
    def promised(self) -> bool:
        """Whether it was told of an order."""
        return self.code in (RESERVED, REPLAYED)

    def __str__(self) -> str:
        position = "" if self.seq is None else f" at {self.epoch}.{self.seq}"
        order = "" if self.order_id is None else f" for order {self.order_id}"
        return f"the answer {self.code}{position} to {self.user_id}{order}"


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
    def position(self) -> Position:
        """The position that it made."""
        return Position(self.epoch, self.seq)


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


def operation_of(
    attempt: Attempt, *, sale_id: int, quantity: int, epoch: int, seq: int, asked_for: str | None = None
) -> Operation | None:
    """An attempt and the position that its answer tells of; None if it was never sent.

    `asked_for` is the order that it makes if it was executed without a word about it, if that is known.
    """
    if attempt.code == ConnectError.code:
        return None
    code, order_id = (UNKNOWN, asked_for) if attempt.unknown else (attempt.code, attempt.order_id)
    seq_told = seq if epoch else None
    sent_at, received_at = attempt.sent_at, attempt.received_at
    return Operation(sale_id, epoch, attempt.user_id, order_id, quantity, code, seq_told, sent_at, received_at)
