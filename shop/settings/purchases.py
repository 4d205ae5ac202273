"""The settings of the purchase path, and of those who wait for what became of their purchase."""

from typing import Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class PurchaseSettings(BaseSettings):
    """The bounds of the purchase path in one process."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    purchase_rate_per_second: PositiveFloat = 5.0
    """Purchases of one user that are admitted in the long run."""
    purchase_burst: PositiveInt = 10
    """Purchases of one user that are admitted at once."""
    open_orders_per_user_max: PositiveInt = 20
    """Ordinary orders of one user that may be reserved and not paid; more are refused with 409."""
    open_units_per_user_max: PositiveInt = 10_000
    """Units that these orders of one user may hold; more are refused with 409."""
    purchase_deadline_seconds: PositiveFloat = 2.0
    """A purchase that could not be sent in time is refused with 503."""
    limiter_users_max: PositiveInt = 100_000
    """Users that the limiter of one process remembers; the shared one knows all."""
    limiter_batch_max: int = Field(256, ge=1, le=256)
    """Callers that share one question to the limiter."""
    limiter_timeout_seconds: PositiveFloat = 0.25
    """How long the limiter waits for Redis before it lets the request pass."""
    side_redis_backoff_seconds: float = Field(0.5, ge=0)
    """How long cache and limiter do not ask a Redis again that did not answer."""
    batch_max: int = Field(128, ge=1, le=256)
    """Purchases that share one script call."""
    batches_in_flight_max: PositiveInt = 4
    """Script calls of one process and sale that may be under way."""
    queue_max: PositiveInt = 10_000
    """Purchases that may wait for a script call; more are refused with 503."""
    poll_after_ms: PositiveInt = 500
    """When a client should ask for its order again, at the earliest."""
    poll_after_ms_max: PositiveInt = 10_000
    """The longest that a client is told to wait, however large the crowd."""
    poll_cpu_share: float = Field(0.25, gt=0, le=1)
    """The share of a core that polls of orders may take in one process; a larger crowd is told to come later."""
    order_state_seconds_max: PositiveFloat = 1.5
    """How long a poll of an order waits for Postgres and the ledger before it is refused with 503."""
    order_states_bytes_max: int = Field(8_388_608, ge=0)
    """What one process keeps of the states of orders as it has drawn them, in bytes."""
    explain_rate_per_second: PositiveFloat = 1.0
    """Refusals that are explained to one user in the long run."""
    explain_burst: PositiveInt = 10
    """Refusals that are explained to one user at once."""
    latch_poll_seconds: PositiveFloat = 0.1
    """How often a process polls whether a sold-out sale has units again."""
    directory_poll_seconds: PositiveFloat = 0.25
    """How soon an API process learns of a sale that was loaded."""

    order_listeners_max: PositiveInt = 10_000
    """Requests of one process that may wait for news of their orders (14 KB each); more are refused with 503."""
    listeners_per_order_max: PositiveInt = 8
    """Event streams of one order in one process; more are refused with 429."""
    listeners_per_account_max: PositiveInt = 20
    """Event streams of one account in one process, and never more than half of all; more are refused with 429."""
    listeners_per_address_max: PositiveInt = 500
    """The same for one client's address; trusted proxies are not counted."""
    order_poll_seconds: PositiveFloat = 5.0
    """How often a process polls Postgres for changes of the orders that somebody waits for."""
    sse_heartbeat_seconds: PositiveFloat = 15.0
    """How long an event stream may be silent."""
    sse_open_seconds_max: PositiveFloat = 30.0
    """An event stream that has not begun after so long, because so many others do, is refused with 503."""
    sse_read_seconds_max: PositiveFloat = 1.5
    """A read of orders for event streams that takes longer is given up; a stream that has not begun is refused then."""
    sse_seconds_max: PositiveFloat = 600.0
    """An event stream is ended after so long; its client comes back by itself."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.poll_after_ms > self.poll_after_ms_max:
            raise ValueError("SHOP_POLL_AFTER_MS must not be above SHOP_POLL_AFTER_MS_MAX")
        return self
