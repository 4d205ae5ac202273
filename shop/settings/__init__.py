"""Every setting and every bound of the shop, each with its unit, read from `SHOP_…` variables or a `.env` file."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from shop.settings.addresses import Host, RedisUrl
from shop.settings.audit import AuditSettings
from shop.settings.database import DatabaseSettings
from shop.settings.edge import EdgeSettings
from shop.settings.notifications import NotificationSettings
from shop.settings.payments import PaymentSettings
from shop.settings.purchases import PurchaseSettings

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-for-production"  # noqa: S105 - refused outside development
SECRET_BYTES_MIN = 32
NOT_FOR_PRODUCTION = ("Development only", "Tests only")
# No bound, wait or rate is larger; beyond it the clocks and timers of some library overflow.
NUMBER_MAX = 1_000_000_000
# Every process remembers for so long whose tokens were revoked.
TOKEN_LIFETIME_SECONDS_MAX = 7 * 24 * 3600


class Settings(AuditSettings, DatabaseSettings, EdgeSettings, NotificationSettings, PaymentSettings, PurchaseSettings):
    """The configuration of one process. Wrong values stop the start with a message that names the variable."""

    model_config = SettingsConfigDict(
        env_prefix="SHOP_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # It may be a secret.
        allow_inf_nan=False,
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
    redis_url: RedisUrl = "redis://localhost:6379/0"
    """The ledger: append-only file on, never evicts; give API and worker a user each (`shop/redis_users.py`)."""
    cache_redis_url: RedisUrl | None = None
    """Cache, limiter, news and queues, which may be lost: no append-only file, and it may evict. If unset, they share
    the ledger's, and each write waits for its disk."""
    redis_patched: bool = False
    """The distribution has fixed the known CVEs of an older Redis; else production refuses such a version."""
    redis_pool_max: PositiveInt = 64
    """Connections to Redis of one process."""
    redis_pool_wait_seconds: PositiveFloat = 0.5
    """How long a caller waits for a free connection before it is refused with 503."""
    redis_timeout_seconds: PositiveFloat = 1.0
    """How long one command may take; after it the outcome of a purchase is unknown (504)."""

    # The API.
    api_host: Host = "127.0.0.1"
    """Where the API listens."""
    api_port: int = Field(8000, ge=0, le=65535)
    """Where the API listens."""
    api_processes: int = Field(1, ge=1, le=64)
    """API processes; one per core is a good start."""
    api_instances: int = Field(1, ge=1, le=1_000)
    """How many times `shop api` runs beside the same Postgres; with it the sum of all pools is checked at the start."""
    worker_instances: int = Field(1, ge=1, le=100)
    """How many times `shop worker` runs beside the same Postgres; counted in the same sum."""
    metrics_host: Host = "127.0.0.1"
    """Where the metrics are shown; never a public address."""
    metrics_port: int = Field(9100, ge=0, le=65535)
    """The metrics have a port of their own; 0 turns it off."""
    worker_metrics_port: int = Field(9101, ge=0, le=65535)
    """The worker's own metrics; 0 turns them off."""
    body_bytes_max: PositiveInt = 64 * 1024
    """The largest body of any request."""
    purchase_body_bytes_max: PositiveInt = 4 * 1024
    """The largest body of a purchase."""
    request_seconds_max: PositiveFloat = 5.0
    """A request that is not complete so long after its first byte is cut with 408."""
    request_wait_seconds_max: PositiveFloat = 2.0
    """How long a request that is no purchase waits for others of its kind before it is refused with 503."""
    read_seconds_max: PositiveFloat = 2.0
    """How long a shopper's read may take before it is refused with 503, as while Postgres hangs."""
    connections_max: PositiveInt = 20_000
    """How many connections a process has open; further ones stay in the listen backlog until one is closed."""
    keep_alive_seconds: PositiveFloat = 75.0
    """How long a connection may be idle between two requests."""
    overload_delay_seconds: PositiveFloat = 0.02
    """A purchase that would be delayed longer in one iteration of the event loop is refused; it takes about five."""
    overload_refused_at_once_max: PositiveInt = 3_000
    """Of more that are refused in one loop iteration, most are sent again at once: connections are parked then."""
    graceful_stop_seconds: PositiveInt = 10
    """How long a process that is asked to stop may finish what it has in hand."""

    # Accounts.
    token_issuer: str = "shop"  # noqa: S105 - a name, not a secret
    """The `iss` claim of tokens."""
    token_audience: str = "shop"  # noqa: S105
    """The `aud` claim of tokens."""
    token_lifetime_seconds: int = Field(12 * 3600, ge=1, le=TOKEN_LIFETIME_SECONDS_MAX)
    """How long a token is valid, unless it is revoked before."""
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
    """How soon every process learns that an account is blocked, or that its tokens are revoked."""

    # The catalogue's cache.
    cache_ttl_seconds: PositiveFloat = 30.0
    """How long a product is cached."""
    cache_absent_ttl_seconds: PositiveFloat = 5.0
    """How long it is cached that there is no such product."""
    cache_absent_max: PositiveInt = 10_000
    """Products that are not there, of which one process remembers it."""
    unknown_ids_pause_seconds: PositiveFloat = 0.045
    """Ids of products, and of sales, of which a process knows nothing share one question to Postgres in such a time."""
    cache_unknown_queue_max: PositiveInt = 5_000
    """Requests for such products that may wait; more are refused with 503."""
    cache_jitter: float = Field(0.1, ge=0, lt=1)
    """Each time to live is varied by ± this share."""
    cache_load_wait_seconds: PositiveFloat = 2.0
    """How long a reader waits for another process that loads the same key."""
    public_pages_bytes_max: PositiveInt = 32 * 1024 * 1024
    """About how much memory the public pages (sales, products, lists of them) of one process take."""
    public_page_waiters_max: PositiveInt = 20_000
    """Requests that may wait for public pages that are being read, half of them for the same; more are refused."""
    public_page_stale_seconds_max: PositiveFloat = 60.0
    """How old a public page may be while it cannot be read again; `Age` says how old it is."""
    hot_half_life_seconds: float = Field(600.0, ge=1)
    """In so long what was read of a product counts half for the hot list."""

    # Idempotency keys of admins.
    idempotency_keep_hours: int = Field(48, ge=24)
    """How long a repeat with the same key is told the first answer, at least."""
    idempotency_forget_batch_max: PositiveInt = 1_000
    """Keys that are deleted in one transaction."""
    idempotency_forget_batches_max: PositiveInt = 10
    """Transactions of one such run; there is one every minute."""

    # Ordinary orders.
    order_hold_seconds: int = Field(900, ge=1, le=2_592_000)
    """How long the units of an order without a sale are held for its payment; a sale has its own `hold_seconds`."""

    # Sales.
    backlog_max: PositiveInt = 1_000_000
    """Undrained events of one sale before purchases are refused."""
    ledger_format: int = Field(2, ge=1, le=2)
    """The format of the events of new ledgers; 1 while a release that reads only 1 may still have to."""
    controller_interval_seconds: PositiveFloat = 0.25
    """How often the controller compares what is with what should be."""
    change_wait_seconds: PositiveFloat = 1.0
    """How long an admin's request waits for the ledger before it is answered with 202."""

    # Recovery after a loss in Redis.
    heartbeat_seconds: PositiveFloat = 1.0
    """How often an API process sends a heartbeat to Postgres, and learns what is recorded and what is recovered."""
    heartbeat_silence_seconds_max: PositiveFloat = 600.0
    """After so long without an answer to a heartbeat a process sells no more until there is one: what it reserves may
    be in an old ledger, and units are kept for that during SHOP_RECEIPT_WINDOW_SECONDS."""
    process_alive_seconds: PositiveFloat = 5.0
    """A recovery waits for the report of each process whose last heartbeat is no older than this."""
    recovery_answer_seconds: PositiveFloat = 3.0
    """How long a recovery waits for the answers of the processes."""
    recovery_lease_seconds: PositiveFloat = 3.0
    """After this time without a sign of the worker that recovers a sale, another one goes on."""
    receipt_window_seconds: PositiveInt = 600
    """How long after a recovery a lost order is honoured for its receipt, and units are kept for that."""

    # The worker.
    worker_pool_max: PositiveInt = 20
    """Connections to Postgres of one worker for its jobs; its persisters may have as many again."""
    persist_sales_max: PositiveInt = 1_000
    """Sales that one worker drains at the same time; each waits on a connection of its own."""
    persist_batch_max: int = Field(1_000, ge=1, le=10_000)
    """Events that are recorded in one transaction."""
    persist_block_seconds: float = Field(0.5, gt=0)
    """Kept below the Redis timeout."""
    persist_lock_wait_seconds: PositiveFloat = 5.0
    """After this wait for a sale's row, a stuck persister that holds it is ended."""
    persist_timeout_seconds: PositiveFloat = 10.0
    """How long one batch may take before it is tried again."""
    persist_idle_in_transaction_seconds: PositiveFloat = 5.0
    """Postgres ends a session that holds its transaction idle for longer."""
    retry_delay_min_seconds: PositiveFloat = 0.05
    """The first pause of the worker after a failure; it doubles."""
    retry_delay_max_seconds: PositiveFloat = 2.0
    """The longest pause of the worker after a failure."""
    item_retry_seconds_max: PositiveFloat = 10.0
    """The longest back-off of one item of a loop that fails as nobody foresaw; the others do not wait for it."""
    expiry_batch_max: PositiveInt = 500
    """Orders that expire in one transaction; a payment of one of them may have to wait for it."""
    expiry_per_second_max: PositiveInt = 6_000
    """Orders that one worker expires in a second; payments need the servers more."""
    expiry_batches_max: PositiveInt = 60
    """Transactions of one run; the next run begins within a second."""
    release_batch_max: int = Field(256, ge=1, le=256)
    """Orders whose units go back in one script call."""
    release_sweep_batches_max: PositiveInt = 40
    """Script calls of one sweep, which goes through the sales round robin."""
    not_recorded_wait_seconds: PositiveFloat = 1.0
    """How long a cancel waits for the order's row before it is refused with 503."""

    # For tests.
    fault: str | None = None
    """Tests only: the point where a process breaks itself (`shop.faults`)."""
    skew_ms: int = 0
    """Tests only: the clock skew that a new ledger starts with."""

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: object) -> object:
        if isinstance(value, int | float) and abs(value) > NUMBER_MAX:
            raise ValueError(f"it must not be above {NUMBER_MAX:,}")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment != "development" and (secret == DEVELOPMENT_SECRET or len(secret) < SECRET_BYTES_MIN):
            raise ValueError(
                f"SHOP_SECRET_KEY must be set to at least {SECRET_BYTES_MIN} random characters"
                " (SHOP_ENVIRONMENT=development lifts this on your own machine)"
            )
        if self.environment != "development":
            self.require_own_payment_secrets()
        if self.environment == "production":
            self.require_encrypted_provider()
            self._require_nothing_of_development()
        if self.environment == "production" and (wide := self.proxies.too_wide):
            raise ValueError(
                f"SHOP_TRUSTED_PROXIES must name your proxies: within {wide} a client could say where it is from"
            )
        if self.persist_block_seconds >= self.redis_timeout_seconds:
            raise ValueError("SHOP_PERSIST_BLOCK_SECONDS must be below SHOP_REDIS_TIMEOUT_SECONDS")
        return self

    def _require_nothing_of_development(self) -> None:
        """Raise ValueError for a setting that is set, and whose description begins with `Development only` or so."""
        for name, field in type(self).model_fields.items():
            if (field.description or "").startswith(NOT_FOR_PRODUCTION) and getattr(self, name) != field.default:
                raise ValueError(f"SHOP_{name.upper()} is not for production; leave it out")

    @property
    def secret(self) -> bytes:
        return self.secret_key.get_secret_value().encode()

    @property
    def side_redis_url(self) -> str:
        """The Redis of what may be lost: cache, limiter, news and queues."""
        return self.cache_redis_url or self.redis_url


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def bundled(name: Literal["lua", "migrations"]) -> Path:
    """The directory of the scripts or of the migrations, in a checkout as in an installed wheel.

    Raises FileNotFoundError when it is in neither place, which means that the installation is broken.
    """
    package = Path(__file__).parent.parent
    for directory in (package / "bundled" / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise FileNotFoundError(f"the directory {name!r} is missing from this installation of the shop")
