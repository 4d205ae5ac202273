"""A cancellation that Postgres does not commit: nothing of it has happened, in Redis neither."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import text

from shop.ledger import client as ledger
from tests.harness import Shop, new_user_id

# A serialization failure, which Postgres may report as late as at the commit.
REFUSE = """
CREATE FUNCTION refuse_the_commit() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'refused by a test' USING ERRCODE = '40001'; END $$
"""
AT_THE_COMMIT = """
CREATE CONSTRAINT TRIGGER refuse_the_commit AFTER UPDATE ON orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.status = 'cancelled') EXECUTE FUNCTION refuse_the_commit()
"""


@asynccontextmanager
async def commits_refused(shop: Shop) -> AsyncIterator[None]:
    """Within it no cancellation is committed, although every statement of it succeeds."""
    async with shop.database.transaction() as session:
        await session.execute(text(REFUSE))
        await session.execute(text(AT_THE_COMMIT))
    try:
        yield
    finally:
        async with shop.database.transaction() as session:
            await session.execute(text("DROP FUNCTION refuse_the_commit CASCADE"))


async def test_a_cancellation_that_is_not_committed_gives_no_unit_back(shop: Shop) -> None:
    """The unit goes back after the commit and never before it: else it would be sold while its buyer has it (I8)."""
    sale, user_id = await shop.open_sale(units=3), new_user_id()
    order_id = await shop.bought(sale, user_id)
    await shop.drained(sale)
    client, path = await shop.client(), f"/v1/orders/{order_id}"

    async with commits_refused(shop):
        refused = await client.post(f"{path}/cancel", headers=shop.headers(user_id))

    assert refused.status_code in {503, 504}
    assert (await client.get(path, headers=shop.headers(user_id))).json()["status"] == "reserved"
    entry = await ledger.find_order(shop.redis, sale.id, 1, UUID(order_id).bytes)
    assert entry is not None
    assert entry.held
    assert (await client.post(f"{path}/cancel", headers=shop.headers(user_id))).status_code == 200
    await shop.drained(sale)
    assert (await shop.audit(sale)).balanced
