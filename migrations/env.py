"""Run the migrations: one at a time in the world, and never waiting long for a lock that shoppers need."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, pool, text

import shop.admin_events
import shop.audit.models
import shop.idempotency.models
import shop.notifications.models
import shop.orders.models
import shop.payments.models
import shop.products.models
import shop.sales.incidents.models
import shop.sales.models
import shop.users.models  # noqa: F401 - each registers its rows
from shop.database import Base
from shop.database_engine import database_engine
from shop.settings import get_settings

ADVISORY_LOCK = 0x5348_4F50
LOCK_TIMEOUT_MS = 4_000
STATEMENT_TIMEOUT_MS = 60_000
ADVISORY_SECONDS, ADVISORY_POLL_SECONDS = 3_600.0, 0.1


def run(connection: Connection) -> None:
    """Migrate under an advisory lock, in one transaction per migration."""
    _lock(connection)
    connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
    connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _lock(connection: Connection) -> None:
    """Wait for the others' turn to end, without a transaction: whoever builds an index concurrently waits for each."""
    ends_at = time.monotonic() + ADVISORY_SECONDS
    while not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK}).scalar_one():
        connection.commit()
        if time.monotonic() > ends_at:
            raise SystemExit("somebody else is migrating this database; run it again when that has ended")
        time.sleep(ADVISORY_POLL_SECONDS)


async def online() -> None:
    """Connect, migrate, leave; the session's end releases the lock."""
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().database_url
    engine = database_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("the migrations need a connection; write SQL with pg_dump --schema-only after `shop migrate`")
asyncio.run(online())
