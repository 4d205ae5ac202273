"""All orders as JSON, and what may be asked of them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shop.bounds import WrittenId
from shop.ledger.order_ids import SALE_ID_MAX, USER_ID_PATTERN
from shop.orders.models import OrderStatus
from shop.orders.schemas import OrderLineRead
from shop.paging import ListQuery


class OrderQuery(ListQuery):
    """Which orders to list; `created_from` and `created_before` are about when they were reserved."""

    starting_after: UUID | None = Field(None, description="The last id of the page before.")
    status: OrderStatus | None = None
    sale_id: Annotated[int | None, Field(ge=1, le=SALE_ID_MAX)] = None
    user_id: Annotated[str | None, Field(pattern=USER_ID_PATTERN)] = None
    product_id: WrittenId | None = None
    of_sale: bool | None = Field(None, description="Only purchases of sales (true), or only ordinary orders (false).")
    replacement: bool | None = Field(None, description="Whether late money bought the order instead of an expired one.")


class OrderAdminRead(BaseModel):
    """An order, as an admin sees it."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["order"] = "order"
    id: UUID
    sale_id: int | None
    user_id: str
    status: OrderStatus
    quantity: int
    total_minor: int
    currency: str
    lines: list[OrderLineRead]
    reserved_at: datetime
    recorded_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    released_at: datetime | None
    replaces: UUID | None


class OrderAdminPage(BaseModel):
    """One page of all orders. `may_lag` says that an order accepted a moment ago may still be missing here."""

    object: Literal["list"] = "list"
    data: list[OrderAdminRead]
    has_more: bool
    may_lag: Literal[True] = True
