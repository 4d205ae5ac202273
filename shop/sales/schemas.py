"""Sales as JSON."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shop.bounds import Name, RowId, Time
from shop.products.schemas import Currency, PriceMinor
from shop.sales.models import ChangeKind, SaleStatus

UNITS_MAX = 100_000_000
HOLD_SECONDS_MAX = 30 * 24 * 3600
# The ledger knows no less.
WINDOW_MIN = timedelta(milliseconds=1)

Units = Annotated[int, Field(strict=True, ge=1, le=UNITS_MAX)]
UnitsPerUser = Annotated[int, Field(strict=True, ge=1, le=10_000)]
OrdersPerUser = Annotated[int, Field(strict=True, ge=1, le=100)]
HoldSeconds = Annotated[int, Field(strict=True, ge=1, le=HOLD_SECONDS_MAX)]

SameCurrency = Annotated[Currency, Field(description="If sent, the one that it has: a sale is sold in its product's.")]

Phase = Literal["draft", "scheduled", "open", "paused", "ended", "settled"]
# `unknown` while the sale cannot be read: then the purchase itself is the question.
StockBand = Literal["plenty", "few", "none", "unknown"]


class SaleCreate(BaseModel):
    """A draft. The price is the product's unless one is given."""

    model_config = ConfigDict(extra="forbid")

    product_id: RowId
    name: Name
    units: Units
    price_minor: PriceMinor | None = None
    currency: SameCurrency | None = None
    units_per_user: UnitsPerUser = 1
    orders_per_user: OrdersPerUser = 10
    hold_seconds: HoldSeconds = 900
    starts_at: Time
    ends_at: Time

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.ends_at - self.starts_at < WINDOW_MIN:
            raise ValueError("ends_at must be after starts_at")
        return self


class SalePatch(BaseModel):
    """What changes in a draft; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    units: Units | None = None
    price_minor: PriceMinor | None = None
    currency: SameCurrency | None = None
    units_per_user: UnitsPerUser | None = None
    orders_per_user: OrdersPerUser | None = None
    hold_seconds: HoldSeconds | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None


class WindowChange(BaseModel):
    """A new window: one of its times, or both. `starts_at` may only change before the start."""

    model_config = ConfigDict(extra="forbid")

    starts_at: Time | None = None
    ends_at: Time | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.starts_at is None and self.ends_at is None:
            raise ValueError("starts_at or ends_at is needed")
        return self


class UnitsChange(BaseModel):
    """Units more (from the product's stock) or fewer (back to it), never below what is taken."""

    model_config = ConfigDict(extra="forbid")

    delta: Annotated[int, Field(strict=True, ge=-UNITS_MAX, le=UNITS_MAX)]


class SaleAdminRead(BaseModel):
    """All that an admin sees of a sale."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["sale"] = "sale"
    id: int
    product_id: int
    name: str
    status: SaleStatus
    phase: Phase
    paused: bool
    units: int
    units_taken: int
    price_minor: int
    currency: str
    units_per_user: int
    orders_per_user: int
    hold_seconds: int
    starts_at: datetime
    ends_at: datetime
    epoch: int
    watermark: int
    held_back: int
    alarm: str | None
    created_at: datetime
    updated_at: datetime


class ChangeRead(BaseModel):
    """A numbered change. `outcome` is null until the ledger has answered; then `applied`, or why it refused."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["sale_change"] = "sale_change"
    sale_id: int
    n: int
    kind: ChangeKind
    starts_at: datetime | None
    ends_at: datetime | None
    units_delta: int | None
    outcome: str | None


class SaleRead(BaseModel):
    """What the public sees: the exact number of units left is not told."""

    object: Literal["sale"] = "sale"
    id: int
    product_id: int
    name: str
    phase: Phase
    stock: StockBand
    price_minor: int
    currency: str
    units_per_user: int
    starts_at: datetime
    ends_at: datetime


class TimeRead(BaseModel):
    """The time of the server that answers."""

    object: Literal["time"] = "time"
    server_time: datetime


class SalePage(BaseModel):
    """One page of sales."""

    object: Literal["list"] = "list"
    data: list[SaleRead]
    has_more: bool


class SaleAdminPage(BaseModel):
    """One page of sales, as an admin sees them."""

    object: Literal["list"] = "list"
    data: list[SaleAdminRead]
    has_more: bool
