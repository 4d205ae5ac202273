"""One wish of one buyer: every attempt with what it was told, and what is known of it after all."""

from dataclasses import dataclass, field
from typing import NamedTuple

from loadtests.client.answers import read_position
from loadtests.crowd.record import Attempt

NOWHERE = (0, 0)


class Told(NamedTuple):
    """One attempt and where in the ledger it was decided, if the answer says so."""

    attempt: Attempt
    epoch: int
    seq: int


@dataclass(slots=True)
class Purchase:
    """What one buyer wants once: so many units of a sale under one key.

    `receipt` is of the first promise. `order_ids` has more than one member only if the shop broke its word.
    """

    number: int
    sale_id: int
    user_id: str
    token: str
    key: str
    quantity: int
    told: list[Told] = field(default_factory=list)
    order_ids: set[str] = field(default_factory=set)
    receipt: str | None = None
    settled: bool = False
    cancelled: bool = False

    @property
    def promised(self) -> bool:
        """Whether the shop has said that there is an order."""
        return bool(self.order_ids)

    @property
    def maybe(self) -> bool:
        """Whether an attempt may have been executed without a word about it."""
        return any(each.attempt.unknown for each in self.told)

    def record(self, attempt: Attempt, statement: str | None) -> None:
        """Note an attempt and the signed statement that came back."""
        self.told.append(Told(attempt, *(read_position(statement) or NOWHERE)))
        if attempt.order_id is not None:
            self.order_ids.add(attempt.order_id)
            self.receipt = self.receipt or statement
        self.settled = self.settled or attempt.order_id is not None or attempt.final
