"""The settings of Postgres: where it is, how many connections there are, and how long anybody waits."""

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from shop.settings.addresses import PostgresUrl


class DatabaseSettings(BaseSettings):
    """The connections to Postgres."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    database_url: PostgresUrl = "postgresql+asyncpg://shop@localhost/shop"
    """Postgres, as libpq and hosting providers write it: `postgres://user:password@host,host/name?sslmode=verify-full`."""
    database_pool_max: PositiveInt = 10
    """Connections to Postgres of one process for its requests; an API process has up to 4 more for itself."""
    database_pool_kept: PositiveInt = 4
    """Connections of each pool that are opened at the start and kept, for when Postgres takes no more."""
    database_pool_wait_seconds: PositiveFloat = 1.8
    """How long a request waits for a connection, be it for a free one, a ping or a new one, before it is refused with
    503."""
    database_pool_waiting_max: PositiveInt = 500
    """Callers of one pool that may wait for a free connection; more are refused at once. A process serves about 400
    requests in the time that one waits."""
    database_connect_seconds: PositiveFloat = 1.5
    """How long a new connection may take, unless the URL has a `connect_timeout`."""
    database_ping_idle_seconds: PositiveFloat = 1.0
    """A connection that was idle for longer is pinged before it is used."""
    database_ping_seconds: PositiveFloat = 0.5
    """One that does not answer this ping in time is replaced, and all that are as old."""
    database_silence_seconds: int = Field(8, ge=4, le=3_600)
    """A TCP connection is closed, on both sides, when the other end has not answered for so long."""
    database_statement_timeout_seconds: PositiveFloat = 5.0
    """Postgres ends a statement that takes longer."""
    database_lock_timeout_seconds: PositiveFloat = 2.0
    """Postgres ends a request's statement that waits longer for a lock; the worker's wait as long as they may take."""
