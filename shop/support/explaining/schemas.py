"""A statement of the shop that is to be explained, and the explanation."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shop.ledger.receipts import STATEMENT_CHARACTERS_MAX
from shop.orders.models import OrderStatus
from shop.orders.schemas import Moment
from shop.sales.schemas import Phase

Statement = Annotated[str, Field(strict=True, min_length=1, max_length=STATEMENT_CHARACTERS_MAX)]


class Verdict(StrEnum):
    """Whether a statement and the recorded ledger can both be true.

    `agrees`: they say the same. `contradicts`: they cannot both be true, and the shop rings its alarm. `lost`: the
    ledger lost this moment before it was recorded. `unchecked`: the ledger does not record what this depends on.
    """

    AGREES = "agrees"
    CONTRADICTS = "contradicts"
    LOST = "lost"
    UNCHECKED = "unchecked"


class ExplainRequest(BaseModel):
    """One signed statement, as the shop has sent it: the `witness` of a refusal, or the `receipt` of an order."""

    model_config = ConfigDict(extra="forbid")

    witness: Statement | None = None
    receipt: Statement | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.witness is None) == (self.receipt is None):
            raise ValueError("send either a witness or a receipt")
        return self


class RanOut(BaseModel):
    """When the last unit was first taken, and what happened to units since then, up to the entry `counted_to_seq`.

    `complete` is false when the ledger goes on behind that entry.
    """

    seq: int
    at: datetime
    units_returned: int
    units_sold_again: int
    counted_to_seq: int
    complete: bool


class SaleRules(BaseModel):
    """The sale's window and limits as they are now."""

    phase: Phase
    starts_at: datetime
    ends_at: datetime
    units_per_user: int
    orders_per_user: int


class OwnOrder(BaseModel):
    """An order of whoever asks, in this sale."""

    id: UUID
    status: OrderStatus
    quantity: int
    reserved_at: datetime
    closed_at: datetime | None
    released_at: datetime | None


class OwnUnits(BaseModel):
    """The units of live orders of whoever asks, at the moment of the statement and now, and how many orders there are.

    An order that was made after the moment, or whose units had come back by then, does not count for it.
    """

    units_then: int
    units_now: int
    orders: list[OwnOrder]
    has_more: bool


class Explanation(BaseModel):
    """Why there was no unit, or what the receipt is worth, by the ledger as it is recorded.

    `code` is the refusal's, or `reserved` for a receipt. `told_at` is when the shop said it, `seq` the entry of the
    ledger (of its `epoch`) after which it was decided. `units_left` is how many units there were then; it is told when
    the refusal was about units (else it is nobody's business). `mine` are the recorded orders of whoever asks.
    """

    object: Literal["explanation"] = "explanation"
    sale_id: int
    code: str
    meaning: str
    told_at: Moment
    epoch: int
    seq: int
    verdict: Verdict
    reason: str
    units_left: int | None
    ran_out: RanOut | None
    order_id: UUID | None
    rules: SaleRules
    mine: OwnUnits
