"""The statements about orders' states: each sees one moment, and answers for all orders that are asked for together.

They are text for the driver: a model and a session for each order would cost more than all that is read. Each id is
looked up by itself (`LATERAL … OFFSET 0`): a plan that was made while the tables were small would read them from end to
end, for as long as Postgres has not analyzed what a crowd has bought since.
"""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from shop.database import Database

# What a row of STATES is.
ORDER, LINE, EVENT, PAYMENT, PAYMENT_OF_ITS_MONEY = range(5)

# The first number of a row is the place of its order among those that are asked for.
STATES = """
SELECT 0, asked.n, o.sale_id::bigint, o.status::text, o.user_id::text, o.currency::text, NULL::text, NULL::text,
       o.quantity, o.total_minor, NULL::bigint, o.reserved_at, o.expires_at, o.closed_at, o.released_at
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM orders WHERE orders.id = asked.id OFFSET 0) AS o
UNION ALL
SELECT 1, asked.n, l.line, NULL, NULL, NULL, NULL, NULL,
       l.quantity, l.price_minor, l.product_id, NULL, NULL, NULL, NULL
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM order_lines WHERE order_lines.order_id = asked.id OFFSET 0) AS l
UNION ALL
SELECT 2, asked.n, e.id, e.status, e.moved_by, e.reason, NULL, NULL,
       NULL, NULL, NULL, e.created_at, NULL, NULL, NULL
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM order_events WHERE order_events.order_id = asked.id OFFSET 0) AS e
 WHERE e.status <> 'reserved'
UNION ALL
SELECT CASE WHEN p.paid_order_id = p.order_id THEN 4 ELSE 3 END, asked.n, p.version, p.status, p.decline_code,
       p.currency, p.pay_url, r.status, p.declines, p.amount_minor, p.attempt, NULL, NULL, NULL, NULL
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM payments WHERE payments.order_id = asked.id OFFSET 0) AS p
       LEFT JOIN LATERAL (SELECT * FROM refunds WHERE refunds.payment_id = p.order_id OFFSET 0) AS r ON true
UNION ALL
SELECT 4, asked.n, p.version, p.status, p.decline_code,
       p.currency, p.pay_url, r.status, p.declines, p.amount_minor, p.attempt, NULL, NULL, NULL, NULL
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM payments WHERE payments.paid_order_id = asked.id OFFSET 0) AS p
       LEFT JOIN LATERAL (SELECT * FROM refunds WHERE refunds.payment_id = p.order_id OFFSET 0) AS r ON true
 WHERE p.order_id <> asked.id
"""

# As `shop.orders.repository.versions` counts them.
VERSIONS = """
SELECT asked.n, o.user_id,
       2 + (SELECT count(*) FROM order_events AS e WHERE e.order_id = asked.id AND e.status <> 'reserved')
         + CASE WHEN o.released_at IS NULL THEN 0 ELSE 1 END
         + COALESCE((SELECT p.version FROM payments AS p WHERE p.order_id = asked.id), 0)
         + COALESCE((SELECT p.version FROM payments AS p
                      WHERE p.paid_order_id = asked.id AND p.order_id <> asked.id), 0)
  FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(id, n),
       LATERAL (SELECT * FROM orders WHERE orders.id = asked.id OFFSET 0) AS o
"""

SALES = "SELECT id, epoch, product_id, price_minor, currency, hold_seconds FROM sales WHERE id = ANY($1) AND epoch > 0"


class Version(NamedTuple):
    """Whose an order is, and its version (see `shop.orders.versions`)."""

    user_id: str
    version: int


class SaleTerms(NamedTuple):
    """What an order of a sale is made of that has no row yet, and the epoch in whose ledger it stands."""

    sale_id: int
    epoch: int
    product_id: int
    price_minor: int
    currency: str
    hold_seconds: int


# A row of STATES, whose columns stand for other things in each kind; `shop.order_states.drawing` names them.
Row = asyncpg.Record


async def states(database: Database, order_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The rows about those of these orders that are recorded, the order's own first."""
    found: dict[str, list[Row]] = {}
    for row in await database.fetch(STATES, order_ids):
        order_id = order_ids[row[1] - 1]
        if row[0] == ORDER:
            found[order_id] = [row]
        elif order_id in found:
            found[order_id].append(row)
    return found


async def versions(database: Database, order_ids: Sequence[str]) -> dict[str, Version]:
    """The versions of those of these orders that are recorded."""
    rows = await database.fetch(VERSIONS, order_ids)
    return {order_ids[number - 1]: Version(user_id, version) for number, user_id, version in rows}


async def sale_terms(database: Database, sale_ids: Sequence[int]) -> dict[int, SaleTerms]:
    """The terms of those of these sales that have had a ledger."""
    return {row[0]: SaleTerms(*row) for row in await database.fetch(SALES, sale_ids)}
