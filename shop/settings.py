"""Every setting and every bound of the shop, each with its unit, read from `SHOP_…` variables or a `.env` file."""

import base64
import binascii
from email.headerregistry import Address
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-for-production"  # noqa: S105 - refused outside development
SECRET_BYTES_MIN = 32
DEVELOPMENT_PAYMENT_API_KEY = "a-key-of-the-sandbox-for-development-only"
DEVELOPMENT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"for-development-only-never-for-production").decode()
WEBHOOK_SECRET_BYTES_MIN, WEBHOOK_SECRET_BYTES_MAX = 24, 64  # as Standard Webhooks has it


class Settings(BaseSettings):
    """The configuration of one process. Wrong values stop the start with a message that names the variable."""

    model_config = SettingsConfigDict(
        env_prefix="SHOP_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # It may be a secret.
    )

    environment: Literal["development", "test", "production"] = "production"
    """`production` refuses weak secrets and a ledger without an append-only file."""
    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Signs tokens, receipts and witnesses."""
    log_format: Literal["console", "json"] = "json"
    """`json` for machines, `console` for people."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is logged."""

    # Where the data is.
    database_url: str = "postgresql+asyncpg://shop@localhost/shop"
    """Postgres."""
    redis_url: str = "redis://localhost:6379/0"
    """The ledger: append-only file on, never evicts; give API and worker a user each (`shop/redis_users.py`)."""
    cache_redis_url: str | None = None
    """Cache, limiter and queues; the ledger's Redis if unset."""
    redis_patched: bool = False
    """The distribution has closed the known holes of an older Redis; else production refuses such a version."""
    database_pool_max: PositiveInt = 10
    """Connections to Postgres of one process."""
    database_pool_wait_seconds: PositiveFloat = 2.0
    """How long a request waits for a free connection before it is refused with 503."""
    database_statement_timeout_seconds: PositiveFloat = 5.0
    """Postgres ends a statement that takes longer."""
    redis_pool_max: PositiveInt = 64
    """Connections to Redis of one process."""
    redis_pool_wait_seconds: PositiveFloat = 0.5
    """How long a caller waits for a free connection before it is refused with 503."""
    redis_timeout_seconds: PositiveFloat = 1.0
    """How long one command may take; after it the outcome of a purchase is unknown (504)."""

    # The API.
    api_host: str = "127.0.0.1"
    """Where the API listens."""
    api_port: int = Field(8000, ge=0, le=65535)
    """Where the API listens."""
    api_processes: int = Field(1, ge=1, le=64)
    """API processes; one per core is a good start."""
    metrics_host: str = "127.0.0.1"
    """Where the metrics are shown; never a public address."""
    metrics_port: int = Field(9100, ge=0, le=65535)
    """The metrics have a port of their own; 0 turns it off."""
    worker_metrics_port: int = Field(9101, ge=0, le=65535)
    """The worker's own metrics; 0 turns them off."""
    cors_origins: list[str] = []
    """Origins of browsers that may use the API, as a JSON list."""
    trusted_proxies: str = "127.0.0.1"
    """Whose X-Forwarded-For is believed, comma-separated."""
    body_bytes_max: PositiveInt = 64 * 1024
    """The largest body of any request."""
    purchase_body_bytes_max: PositiveInt = 4 * 1024
    """The largest body of a purchase."""
    request_seconds_max: PositiveFloat = 5.0
    """A request that is not complete so long after its first byte is cut with 408."""
    keep_alive_seconds: PositiveFloat = 75.0
    """How long a connection may be idle between two requests."""
    overload_delay_seconds: PositiveFloat = 0.02
    """A purchase that would be delayed longer in one turn of the event loop is refused; it takes about five turns."""
    graceful_stop_seconds: PositiveInt = 10
    """How long a process that is asked to stop may finish what it has in hand."""

    # Accounts.
    token_issuer: str = "shop"  # noqa: S105 - a name, not a secret
    """The `iss` claim of tokens."""
    token_audience: str = "shop"  # noqa: S105
    """The `aud` claim of tokens."""
    token_lifetime_seconds: PositiveInt = 12 * 3600
    """How long a token is valid."""
    token_cache_max: PositiveInt = 100_000
    """Verified tokens that one process remembers."""
    hashing_threads: PositiveInt = 2
    """Passwords that one process hashes at the same time."""
    hashing_queue_max: PositiveInt = 32
    """Passwords that may wait for it; more are refused with 503."""
    sign_in_per_minute_per_address: PositiveInt = 60
    """Registrations and sign-ins from one address."""
    sign_in_per_minute_per_account: PositiveInt = 10
    """Registrations and sign-ins for one account."""
    blocked_poll_seconds: PositiveFloat = 0.4
    """How soon every process learns that an account is blocked."""

    # The catalogue's cache.
    cache_ttl_seconds: PositiveFloat = 30.0
    """How long a product is cached."""
    cache_absent_ttl_seconds: PositiveFloat = 5.0
    """How long it is cached that there is no such product."""
    cache_jitter: float = Field(0.1, ge=0, lt=1)
    """Each time to live is varied by ± this share."""
    cache_load_wait_seconds: PositiveFloat = 2.0
    """How long a reader waits for another process that loads the same key."""

    # The purchase path.
    purchase_rate_per_second: PositiveFloat = 5.0
    """Purchases of one user that are admitted in the long run."""
    purchase_burst: PositiveInt = 10
    """Purchases of one user that are admitted at once."""
    purchase_deadline_seconds: PositiveFloat = 2.0
    """A purchase that could not be sent in time is refused with 503."""
    limiter_users_max: PositiveInt = 100_000
    """Users that the limiter of one process remembers; the shared one knows all."""
    limiter_batch_max: int = Field(256, ge=1, le=256)
    """Callers that share one question to the limiter."""
    limiter_timeout_seconds: PositiveFloat = 0.25
    """How long the limiter waits for Redis before it lets the request pass."""
    side_redis_rest_seconds: float = Field(0.5, ge=0)
    """How long cache and limiter go on without a Redis that did not answer."""
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
    polls_per_second_max: PositiveInt = 500
    """Polls that one process asks its clients for; a larger crowd is told to come later."""
    latch_poll_seconds: PositiveFloat = 0.1
    """How often a process looks whether a sold-out sale has units again."""
    directory_poll_seconds: PositiveFloat = 0.25
    """How soon an API process learns of a sale that was loaded."""

    # Idempotency keys of admins.
    idempotency_keep_hours: int = Field(48, ge=24)
    """How long a repeat with the same key is told the first answer, at least."""
    idempotency_forget_batch_max: PositiveInt = 1_000
    """Keys that are deleted in one transaction."""
    idempotency_forget_batches_max: PositiveInt = 10
    """Transactions of one such run; there is one every minute."""

    # News of orders.
    order_listeners_max: PositiveInt = 20_000
    """Requests of one process that may wait for news of their orders; more are refused with 503."""
    listeners_per_order_max: PositiveInt = 8
    """Event streams of one order in one process; more are refused with 429."""
    order_look_seconds: PositiveFloat = 5.0
    """How often a process looks by itself for changes of the orders that somebody waits for."""
    sse_heartbeat_seconds: PositiveFloat = 15.0
    """How long an event stream may be silent."""
    sse_seconds_max: PositiveFloat = 600.0
    """An event stream is ended after so long; its client comes back by itself."""

    # Ordinary orders.
    order_hold_seconds: int = Field(900, ge=1, le=2_592_000)
    """How long the units of an order without a sale are held for its payment."""

    # Sales.
    backlog_max: PositiveInt = 1_000_000
    """Undrained events of one sale before purchases are refused."""
    controller_interval_seconds: PositiveFloat = 0.25
    """How often the controller compares what is with what should be."""
    change_wait_seconds: PositiveFloat = 1.0
    """How long an admin's request waits for the ledger before it is answered with 202."""

    # The worker.
    persist_sales_max: PositiveInt = 1_000
    """Sales that one worker drains at the same time; each waits on a connection of its own."""
    persist_batch_max: int = Field(1_000, ge=1, le=10_000)
    """Events that are recorded in one transaction."""
    persist_block_seconds: float = Field(0.5, gt=0)
    """Kept below the Redis timeout."""
    persist_lock_wait_seconds: PositiveFloat = 5.0
    """After this wait for a sale's row, a stuck persister that holds it is ended."""
    persist_timeout_seconds: PositiveFloat = 15.0
    """How long one batch may take before it is tried again."""
    persist_idle_in_transaction_seconds: PositiveFloat = 5.0
    """Postgres ends a session that holds its transaction idle for longer."""
    retry_delay_min_seconds: PositiveFloat = 0.05
    """The first pause of the worker after a failure; it doubles."""
    retry_delay_max_seconds: PositiveFloat = 2.0
    """The longest pause of the worker after a failure."""
    expiry_batch_max: PositiveInt = 1_000
    """Orders that expire in one transaction; a payment of one of them may have to wait for it."""
    expiry_batches_max: PositiveInt = 100
    """Transactions of one run; the next run begins within a second."""
    release_batch_max: int = Field(256, ge=1, le=256)
    """Orders whose units go back in one script call."""
    release_sweep_batches_max: PositiveInt = 40
    """Script calls of one sweep; the sales take turns."""
    not_recorded_wait_seconds: PositiveFloat = 1.0
    """How long a cancel waits for the order's row before it is refused with 503."""

    # Payments.
    payment_provider_url: str = Field("http://127.0.0.1:8900", pattern=r"^https?://[^/?#\s]+[^?#\s]*$")
    """Where the payment provider's API is; `shop sandbox-provider` is one to develop against."""
    payment_api_key: SecretStr = SecretStr(DEVELOPMENT_PAYMENT_API_KEY)
    """What the shop shows the provider."""
    payment_webhook_secret: SecretStr = SecretStr(DEVELOPMENT_WEBHOOK_SECRET)
    """`whsec_…`, with which the provider signs; several with a space between them while it is changed."""
    payment_timeout_seconds: PositiveFloat = 3.0
    """How long one try of a call to the provider may take."""
    payment_deadline_seconds: PositiveFloat = 8.0
    """How long a call to the provider may take with all its tries; after it, 503."""
    payment_tries_max: int = Field(3, ge=1, le=10)
    """Tries of one call to the provider; each carries the same key, so that it is done once."""
    payment_connections_max: PositiveInt = 20
    """Connections to the provider of one process."""
    payment_breaker_failures: PositiveInt = 5
    """After so many failures in a row the provider is left alone for a while."""
    payment_breaker_rest_seconds: PositiveFloat = 5.0
    """For how long; then one call tries whether it is back."""
    settle_batch_max: PositiveInt = 200
    """Payments whose money one run of the settling job looks at."""
    provider_batch_max: PositiveInt = 50
    """Intents and refunds that one run of a job asks the provider about."""
    provider_pause_seconds: PositiveFloat = 1.0
    """The first pause until the provider is asked the same again; it doubles up to 128 times that."""
    reconcile_page_max: int = Field(500, ge=1, le=500)
    """Events of the provider's own list that are read at once."""
    reconcile_pages_max: PositiveInt = 20
    """Such pages in one run of the reconciling job."""

    # Notifications.
    notification_log: bool = False
    """Write every notification into the log."""
    smtp_url: SecretStr | None = None
    """Where mail is handed in: `smtp://user:password@host:587` or `smtps://host`; without it no mail is sent."""
    mail_from: str = Field("shop@localhost", max_length=254)
    """The sender of mails."""
    expiring_soon_seconds: int = Field(120, ge=30, le=2_592_000)
    """How long before its end a hold is called to mind; a hold must last at least twice as long for that."""
    notification_batch_max: int = Field(500, ge=1, le=2_000)
    """Events that are collected in one transaction."""
    notification_batches_max: PositiveInt = 20
    """Transactions of one run of the collector."""
    notification_keep_days: PositiveInt = 30
    """How long a notification and its dead letters are kept."""
    delivery_batch_max: int = Field(16, ge=1, le=100)
    """Deliveries to one receiver that are under way at the same time."""
    delivery_receivers_max: int = Field(16, ge=1, le=100)
    """Receivers that one worker serves at the same time."""
    delivery_timeout_seconds: PositiveFloat = 10.0
    """How long one try may take."""
    delivery_lease_seconds: PositiveFloat = 60.0
    """A delivery whose worker died is tried again after this."""
    delivery_retry_seconds: PositiveFloat = 5.0
    """The pause after the first failed try; each further one is three times as long, all ± 20 %."""
    delivery_retry_hours_max: PositiveFloat = 24.0
    """How long a delivery is tried before it is a dead letter."""
    webhooks_max: int = Field(100, ge=0, le=1_000)
    """Webhooks that merchants may have."""
    webhook_private_addresses_allowed: bool = False
    """Development only: webhooks may be at private addresses, and without TLS."""
    webhook_disable_after_days: PositiveFloat = 5.0
    """A webhook that has failed for so long without a success is disabled."""

    # For tests.
    fault: str | None = None
    """Tests only: the point where a process breaks itself (`shop.faults`)."""
    skew_ms: int = 0
    """Tests only: the clock skew that a new ledger starts with."""

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, url: str) -> str:
        return (
            "postgresql+asyncpg://" + url.split("://", 1)[1]
            if url.startswith(("postgres://", "postgresql://"))
            else url
        )

    @field_validator("payment_webhook_secret")
    @classmethod
    def _standard_webhooks(cls, secrets: SecretStr) -> SecretStr:
        named = secrets.get_secret_value().split()
        if not named or not all(map(_is_webhook_secret, named)):
            raise ValueError(
                f"SHOP_PAYMENT_WEBHOOK_SECRET must be `whsec_` and the base64 of {WEBHOOK_SECRET_BYTES_MIN}"
                f" to {WEBHOOK_SECRET_BYTES_MAX} random bytes"
            )
        return secrets

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(url.get_secret_value()) if url else None
        if parts and (parts.scheme not in {"smtp", "smtps"} or not parts.hostname):
            raise ValueError("must be smtp://host:port or smtps://host:port")
        return url

    @field_validator("mail_from")
    @classmethod
    def _address(cls, address: str) -> str:
        return Address(addr_spec=address).addr_spec

    @model_validator(mode="after")
    def _safe(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment != "development" and (secret == DEVELOPMENT_SECRET or len(secret) < SECRET_BYTES_MIN):
            raise ValueError(
                f"SHOP_SECRET_KEY must be set to at least {SECRET_BYTES_MIN} random characters"
                " (SHOP_ENVIRONMENT=development lifts this on your own machine)"
            )
        if self.environment != "development":
            for name, given, known in (
                ("SHOP_PAYMENT_API_KEY", self.payment_api_key, ("", DEVELOPMENT_PAYMENT_API_KEY)),
                ("SHOP_PAYMENT_WEBHOOK_SECRET", self.payment_webhook_secret, (DEVELOPMENT_WEBHOOK_SECRET,)),
            ):
                if given.get_secret_value().strip() in known:
                    raise ValueError(f"{name} must be set to the one that the payment provider gave you")
        if self.environment == "production" and self.fault:
            raise ValueError("SHOP_FAULT is for tests; it must not be set in production")
        if self.poll_after_ms > self.poll_after_ms_max:
            raise ValueError("SHOP_POLL_AFTER_MS must not be above SHOP_POLL_AFTER_MS_MAX")
        if self.persist_block_seconds >= self.redis_timeout_seconds:
            raise ValueError("SHOP_PERSIST_BLOCK_SECONDS must be below SHOP_REDIS_TIMEOUT_SECONDS")
        if self.delivery_timeout_seconds >= self.delivery_lease_seconds:
            raise ValueError("SHOP_DELIVERY_TIMEOUT_SECONDS must be below SHOP_DELIVERY_LEASE_SECONDS")
        return self

    @property
    def secret(self) -> bytes:
        return self.secret_key.get_secret_value().encode()

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that the provider may sign with; the first is the one it should use."""
        return tuple(self.payment_webhook_secret.get_secret_value().split())

    @property
    def side_redis_url(self) -> str:
        """The Redis of what may be lost: cache, limiter and queues."""
        return self.cache_redis_url or self.redis_url


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return False
    return text.startswith("whsec_") and WEBHOOK_SECRET_BYTES_MIN <= len(key) <= WEBHOOK_SECRET_BYTES_MAX


def bundled(name: Literal["lua", "migrations"]) -> Path:
    """The directory of the scripts or of the migrations, in a checkout as in an installed wheel.

    Raises FileNotFoundError when it is in neither place, which means that the installation is broken.
    """
    package = Path(__file__).parent
    for directory in (package / "bundled" / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise FileNotFoundError(f"the directory {name!r} is missing from this installation of the shop")
