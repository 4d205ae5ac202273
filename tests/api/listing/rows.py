"""Many rows of everything that admins list, made by Postgres itself, with a few rare ones among them."""

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database

# Of all the rows, one in so many is of the rare kind: an index that is not about it has to read as many.
RARE_EVERY = 2_000
USERS_EVERY = 50

STATEMENTS = (
    """INSERT INTO users (id, email, password_hash, role, blocked_at, created_at)
    SELECT 'u' || n, 'user' || n || '@example.com', '!', CASE WHEN n % :rare = 7 THEN 'admin' ELSE 'shopper' END,
        CASE WHEN n % :rare = 11 THEN now() END, timestamptz '2026-01-01Z' + n * interval '1 second'
    FROM generate_series(1, :rows) n""",
    """INSERT INTO products (id, name, description, price_minor, currency, stock, published) OVERRIDING SYSTEM VALUE
    SELECT n, 'Product ' || n, '', 100, 'EUR', 0, true FROM generate_series(1, 4) n""",
    """INSERT INTO sales (id, product_id, name, units, units_taken, price_minor, currency, units_per_user,
        orders_per_user, hold_seconds, starts_at, ends_at, status, paused, salt, epoch, watermark, watermark_balance,
        changes, held_back) OVERRIDING SYSTEM VALUE
    SELECT n, CASE WHEN n < 3 THEN 1 ELSE 2 END, 'Sale ' || n, 0, 0, 100, 'EUR', 1, 1, 900, now(),
        now() + interval '1 hour',
        CASE WHEN n < 3 THEN 'settled' ELSE 'ended' END, false, decode(repeat('00', 16), 'hex'), 0, 0, 0, 0, 0
    FROM generate_series(1, 3) n""",
    # Every second order is of sale 1; sales 2 and 3 (whose orders are reserved) are rare, and so is product 4 among the
    # ordinary ones.
    """INSERT INTO orders (id, sale_id, epoch, seq, user_id, status, quantity, total_minor, currency, reserved_at,
        recorded_at, expires_at, closed_at, released_at, replaces)
    SELECT (lpad(to_hex(coalesce(sale, 0)), 8, '0') || '-0000-8000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, sale,
        CASE WHEN sale > 0 THEN 1 END, CASE WHEN sale > 0 THEN n END, 'u' || n / :per_user,
        CASE WHEN n % :rare < 2 THEN 'refunded' WHEN sale = 3 THEN 'reserved' ELSE 'paid' END,
        1, 100, 'EUR', at, at, at + interval '1 hour', NULL,
        NULL, CASE WHEN n % :rare < 2 THEN gen_random_uuid() END
    FROM (SELECT n, timestamptz '2026-01-01Z' + n * interval '1 second' AS at,
            CASE WHEN n % 2 = 1 THEN NULL WHEN n % :rare = 4 THEN 2 WHEN n % :rare = 6 THEN 3 ELSE 1 END AS sale
        FROM generate_series(1, :rows) n) made""",
    """INSERT INTO order_lines (order_id, line, product_id, quantity, price_minor, reserved_at)
    SELECT id, 1, CASE WHEN sale_id IN (1, 2) THEN 1 WHEN sale_id = 3 THEN 2
            WHEN extract(epoch FROM reserved_at)::bigint % :rare = 1 THEN 4 ELSE 3 END, 1, 100, reserved_at
    FROM orders""",
    """INSERT INTO payments (order_id, intent_id, status, amount_minor, currency, captured_at, settled_at,
        paid_order_id, created_at)
    SELECT id, 'pi_' || id, CASE WHEN rare = 3 THEN 'open' ELSE 'captured' END, 100,
        CASE WHEN rare = 5 THEN 'JPY' ELSE 'EUR' END, CASE WHEN rare != 3 THEN reserved_at END,
        CASE WHEN rare NOT IN (3, 8) THEN reserved_at END, CASE WHEN rare NOT IN (3, 8) THEN id END, reserved_at
    FROM (SELECT *, extract(epoch FROM reserved_at)::bigint % :rare AS rare FROM orders) made""",
    """INSERT INTO provider_events (id, kind, intent_id, outcome)
    SELECT 'evt_' || order_id, 'payment.captured', intent_id,
        CASE WHEN extract(epoch FROM created_at)::bigint % :rare = 9 THEN 'mismatch' ELSE 'applied' END
    FROM payments""",
    """INSERT INTO admin_events (actor_id, address, request_id, action, subject, subject_id, details, created_at)
    SELECT CASE WHEN n % :rare = 1 THEN 'rare' ELSE 'often' END, 'local', '',
        CASE WHEN n % :rare = 2 THEN 'user.role' ELSE 'product.stock' END,
        CASE WHEN n % :rare = 2 THEN 'user' ELSE 'product' END, (n % 100)::text, '{}',
        timestamptz '2026-01-01Z' + n * interval '1 second'
    FROM generate_series(1, :rows) n""",
)
TABLES = ("users", "sales", "orders", "order_lines", "payments", "provider_events", "admin_events")


# Foreign keys hold by what the statements are, and indexes are made faster of whole tables; keys stay where they are.
QUICKLY = ("SET LOCAL session_replication_role = replica", "SET LOCAL maintenance_work_mem = '1GB'")
INDEXES = """SELECT indexname, indexdef FROM pg_indexes JOIN pg_class ON relname = indexname
    WHERE tablename = ANY(:tables) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = pg_class.oid)"""


async def fill(session: AsyncSession, rows: int, done: Callable[[str], None] = lambda _: None) -> None:
    """So many accounts, orders, payments and events. `done` is told of each step."""
    values = {"rows": rows, "rare": RARE_EVERY, "per_user": USERS_EVERY}
    for statement in QUICKLY:
        await session.execute(text(statement))
    indexes = (await session.execute(text(INDEXES), {"tables": list(TABLES)})).all()
    for name, _ in indexes:
        await session.execute(text(f'DROP INDEX "{name}"'))
    for statement in STATEMENTS:
        await session.execute(text(statement), {name: each for name, each in values.items() if f":{name}" in statement})
        done(statement.split("(")[0])
    for name, definition in indexes:
        await session.execute(text(definition.replace(":", "\\:")))
        done(f"index {name}")


async def vacuum(database: Database) -> None:
    """What autovacuum does to such tables sooner or later: plans depend on it, so it has been before they are made."""
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"VACUUM (ANALYZE) {', '.join(TABLES)}"))
