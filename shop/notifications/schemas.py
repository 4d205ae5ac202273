"""The JSON of webhooks and dead letters."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shop.bounds import Text
from shop.notifications.addresses import URL_LENGTH_MAX
from shop.notifications.kinds import ORDER_KINDS, Kind, Sink

ID_MAX = 2**31 - 1

Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=URL_LENGTH_MAX, pattern=r"^[\x21-\x7e]+$"),
    Field(description="Where to post: https, at a public address.", examples=["https://merchant.example/hooks/shop"]),
]
Description = Annotated[str, Text(200, length_min=0), Field(examples=["The ERP"])]
OrderKind = Literal[Kind.RESERVED, Kind.EXPIRING_SOON, Kind.PAID, Kind.CANCELLED, Kind.EXPIRED, Kind.REFUNDED]


def _each_once(events: list[Kind]) -> list[Kind]:
    """In the order in which they happen to an order, whatever order they were sent in."""
    return [kind for kind in ORDER_KINDS if kind in events]


Events = Annotated[
    list[OrderKind],
    Field(min_length=1, max_length=2 * len(ORDER_KINDS), description="What to tell; all if it is left out."),
    AfterValidator(_each_once),
]


class WebhookCreate(BaseModel):
    """A URL that wants to hear of orders."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events = [
        Kind.RESERVED, Kind.EXPIRING_SOON, Kind.PAID, Kind.CANCELLED, Kind.EXPIRED, Kind.REFUNDED,
    ]  # fmt: skip
    description: Description = ""


class WebhookPatch(BaseModel):
    """What to change; what is not named stays. Deliveries that are pending wait while `enabled` is false."""

    # The default factories are never read: only fields that the client sent are changed, and none may be null.
    model_config = ConfigDict(extra="forbid")

    url: Url = Field(default_factory=str)
    events: Events = Field(default_factory=list)
    description: Description = Field(default_factory=str)
    enabled: Annotated[bool, Field(strict=True)] = Field(default_factory=bool)

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        return self.model_dump(exclude_unset=True, mode="json")


class WebhookRead(BaseModel):
    """A webhook, without its secret. `failing_since` is when it last began to fail, if it has not answered since."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["webhook"] = "webhook"
    id: int
    url: str
    events: list[Kind]
    description: str
    enabled: bool = True
    disabled_at: datetime | None
    disabled_reason: Literal["admin", "gone", "failing"] | None
    failing_since: datetime | None
    created_at: datetime

    @model_validator(mode="after")
    def _is_enabled(self) -> Self:
        self.enabled = self.disabled_at is None
        return self


class WebhookWithSecret(WebhookRead):
    """A webhook with the secret that signs for it, which is shown this once."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    previous_secret_until: datetime | None


class WebhookPage(BaseModel):
    """One page of webhooks, newest first."""

    object: Literal["list"] = "list"
    data: list[WebhookRead]
    has_more: bool


class DeliveryRead(BaseModel):
    """A delivery: pending, unless it has a `delivered_at` or a `dead_at`."""

    object: Literal["delivery"] = "delivery"
    id: int
    notification_id: UUID
    event: Kind
    sink: Sink
    webhook_id: int | None
    url: str | None
    user_id: str
    order_id: UUID | None
    tries: int
    last_error: str | None
    next_try_at: datetime | None
    delivered_at: datetime | None
    dead_at: datetime | None
    created_at: datetime
    payload: dict[str, Any]


class DeadLetterPage(BaseModel):
    """One page of dead letters, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryRead]
    has_more: bool
