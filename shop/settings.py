"""Every setting and every bound of the shop, each with its unit, read from `SHOP_…` variables or a `.env` file."""

from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-for-production"  # noqa: S105 - refused outside development
SECRET_BYTES_MIN = 32


class Settings(BaseSettings):
    """The configuration of one process. Wrong values stop the start with a message that names the variable."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", env_file=".env", extra="ignore", frozen=True)

    environment: Literal["development", "test", "production"] = "production"
    secret_key: SecretStr = Field(SecretStr(DEVELOPMENT_SECRET), description="Signs tokens, receipts and witnesses.")
    log_format: Literal["console", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # Where the data is.
    database_url: str = "postgresql+asyncpg://shop@localhost/shop"
    redis_url: str = Field("redis://localhost:6379/0", description="The ledger: append-only file on, never evicts.")
    cache_redis_url: str | None = Field(None, description="Cache, limiter and queues; the ledger's Redis if unset.")
    database_pool_max: PositiveInt = 10
    database_pool_wait_seconds: PositiveFloat = 2.0
    database_statement_timeout_seconds: PositiveFloat = 5.0
    redis_pool_max: PositiveInt = 64
    redis_pool_wait_seconds: PositiveFloat = 0.5
    redis_timeout_seconds: PositiveFloat = 1.0

    # The API.
    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65535)
    api_processes: int = Field(1, ge=1, le=64)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9100, ge=0, le=65535, description="The metrics have a port of their own; 0 turns it off.")
    worker_metrics_port: int = Field(9101, ge=0, le=65535)
    cors_origins: list[str] = []
    trusted_proxies: str = Field("127.0.0.1", description="Whose X-Forwarded-For is believed, comma-separated.")
    body_bytes_max: PositiveInt = 64 * 1024
    purchase_body_bytes_max: PositiveInt = 4 * 1024
    graceful_stop_seconds: PositiveInt = 10

    # Accounts.
    token_issuer: str = "shop"  # noqa: S105 - a name, not a secret
    token_audience: str = "shop"  # noqa: S105
    token_lifetime_seconds: PositiveInt = 12 * 3600
    token_cache_max: PositiveInt = 100_000
    hashing_threads: PositiveInt = 2
    hashing_queue_max: PositiveInt = 32
    sign_in_per_minute_per_address: PositiveInt = 60
    sign_in_per_minute_per_account: PositiveInt = 10
    blocked_poll_seconds: PositiveFloat = 0.4

    # The catalogue's cache.
    cache_ttl_seconds: PositiveFloat = 30.0
    cache_absent_ttl_seconds: PositiveFloat = 5.0
    cache_jitter: float = Field(0.1, ge=0, lt=1, description="Each time to live is varied by ± this share.")
    cache_load_wait_seconds: PositiveFloat = 2.0

    # The purchase path.
    purchase_rate_per_second: PositiveFloat = 5.0
    purchase_burst: PositiveInt = 10
    purchase_deadline_seconds: PositiveFloat = 2.0
    limiter_users_max: PositiveInt = 100_000
    limiter_batch_max: int = Field(256, ge=1, le=256, description="Callers that share one question to the limiter.")
    limiter_timeout_seconds: PositiveFloat = 0.25
    side_redis_rest_seconds: float = Field(
        0.5, ge=0, description="How long cache and limiter go on without a Redis that did not answer."
    )
    batch_max: int = Field(128, ge=1, le=256)
    batches_in_flight_max: PositiveInt = 2
    queue_max: PositiveInt = 10_000
    poll_after_ms: PositiveInt = 500
    tries_without_key_max: PositiveInt = Field(16, description="Orders of one buyer tried in turn when no key is sent.")
    directory_poll_seconds: PositiveFloat = 0.25

    # Sales.
    backlog_max: PositiveInt = Field(
        1_000_000, description="Undrained events of one sale before purchases are refused."
    )
    controller_interval_seconds: PositiveFloat = 0.25
    change_wait_seconds: PositiveFloat = 1.0

    # The worker.
    persist_batch_max: int = Field(1_000, ge=1, le=10_000)
    persist_block_seconds: float = Field(0.5, gt=0, description="Kept below the Redis timeout.")
    persist_lock_wait_seconds: PositiveFloat = 5.0
    persist_timeout_seconds: PositiveFloat = 15.0
    persist_idle_in_transaction_seconds: PositiveFloat = 5.0
    retry_delay_min_seconds: PositiveFloat = 0.05
    retry_delay_max_seconds: PositiveFloat = 2.0
    expiry_batch_max: PositiveInt = 1_000
    release_batch_max: int = Field(256, ge=1, le=256)
    release_sweep_batches_max: PositiveInt = 40
    not_recorded_wait_seconds: PositiveFloat = 1.0

    # Tests only: a fault point by name (see `shop.orders.persister`), and a clock skew that a new ledger starts with.
    fault: str | None = None
    skew_ms: int = 0

    @field_validator("database_url")
    @classmethod
    def _asyncpg(cls, url: str) -> str:
        return (
            "postgresql+asyncpg://" + url.split("://", 1)[1]
            if url.startswith(("postgres://", "postgresql://"))
            else url
        )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment == "production" and (secret == DEVELOPMENT_SECRET or len(secret) < SECRET_BYTES_MIN):
            raise ValueError(
                f"SHOP_SECRET_KEY must be set to at least {SECRET_BYTES_MIN} random characters"
                " (SHOP_ENVIRONMENT=development lifts this on your own machine)"
            )
        if self.environment == "production" and self.fault:
            raise ValueError("SHOP_FAULT is for tests; it must not be set in production")
        if self.persist_block_seconds >= self.redis_timeout_seconds:
            raise ValueError("SHOP_PERSIST_BLOCK_SECONDS must be below SHOP_REDIS_TIMEOUT_SECONDS")
        return self

    @property
    def secret(self) -> bytes:
        return self.secret_key.get_secret_value().encode()

    @property
    def side_redis_url(self) -> str:
        """The Redis of what may be lost: cache, limiter and queues."""
        return self.cache_redis_url or self.redis_url


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def bundled(name: Literal["lua", "migrations"]) -> Path:
    """The directory of the scripts or of the migrations, in a checkout as in an installed wheel.

    Raises FileNotFoundError when it is in neither place, which means that the installation is broken.
    """
    package = Path(__file__).parent
    for directory in (package / "bundled" / name, package.parent / name):
        if directory.is_dir():
            return directory
    raise FileNotFoundError(f"the directory {name!r} is missing from this installation of the shop")
