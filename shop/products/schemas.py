"""The JSON of the catalogue. The public never sees how many units are left."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shop import currencies
from shop.bounds import Description, Name
from shop.products.models import Product

# What may be put in by hand. What sales and orders give back comes on top, and fits into the eight bytes of the column.
STOCK_MAX = 1_000_000_000
# A price times any quantity that one line can have is a sum (`shop.bounds.SUM_MINOR_MAX`).
PRICE_MINOR_MAX = 900_000_000_000
LOW_STOCK_UNITS = 10


def _not_zero(delta: int) -> int:
    if delta == 0:
        raise ValueError("a change by zero is no change")
    return delta


PriceMinor = Annotated[int, Field(strict=True, ge=0, le=PRICE_MINOR_MAX, examples=[19_900])]
Currency = Annotated[
    str, Field(examples=["EUR"], json_schema_extra={"enum": list(currencies.CODES)}), AfterValidator(currencies.known)
]
Published = Annotated[bool, Field(strict=True)]
StockDelta = Annotated[
    int,
    Field(strict=True, ge=-STOCK_MAX, le=STOCK_MAX, examples=[100], json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_not_zero),
]


class Availability(StrEnum):
    IN_STOCK = "in_stock"
    LOW = "low"
    OUT_OF_STOCK = "out_of_stock"


class ProductCreate(BaseModel):
    """A new product."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description = ""
    price_minor: PriceMinor
    currency: Currency
    stock: Annotated[int, Field(strict=True, ge=0, le=STOCK_MAX)] = 0
    published: Published = True


class ProductPatch(BaseModel):
    """What to change; what is not named stays. Stock moves by a difference, at `/stock`, and never from here."""

    # The default factories are never read: only fields that the client sent are changed, and none may be null.
    model_config = ConfigDict(extra="forbid")

    name: Name = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    price_minor: PriceMinor = Field(default_factory=int)
    currency: Currency = Field(default_factory=str)
    published: Published = Field(default_factory=bool)

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        return self.model_dump(exclude_unset=True)


class StockChange(BaseModel):
    """Units that arrive, or leave with a minus sign."""

    model_config = ConfigDict(extra="forbid")

    delta: StockDelta


class ProductRead(BaseModel):
    """A product, as everyone sees it."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["product"] = "product"
    id: int
    name: str
    description: str
    price_minor: int
    currency: str
    availability: Availability


class ProductPage(BaseModel):
    """One page of the catalogue, newest first."""

    object: Literal["list"] = "list"
    data: list[ProductRead]
    has_more: bool


class AdminProductRead(BaseModel):
    """A product, as admins see it; `stock` is what no sale holds."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["product"] = "product"
    id: int
    name: str
    description: str
    price_minor: int
    currency: str
    stock: int
    published: bool
    created_at: datetime
    updated_at: datetime


class AdminProductPage(BaseModel):
    """One page of all products, newest first."""

    object: Literal["list"] = "list"
    data: list[AdminProductRead]
    has_more: bool


def public_view(product: Product) -> ProductRead:
    """What the public may know of a product."""
    return ProductRead(
        id=product.id,
        name=product.name,
        description=product.description,
        price_minor=product.price_minor,
        currency=product.currency,
        availability=availability(product.stock),
    )


def availability(stock: int) -> Availability:
    """The coarse band of a stock."""
    if stock == 0:
        return Availability.OUT_OF_STOCK
    return Availability.LOW if stock <= LOW_STOCK_UNITS else Availability.IN_STOCK
