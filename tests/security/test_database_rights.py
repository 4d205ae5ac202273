"""The role of Postgres that API and worker run as: it does all of their work, and it cannot change the schema."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shop.database import Database
from shop.local import environment_of
from shop.settings import Settings
from tests.harness import outcome
from tests.nursery import run
from tests.processes import copy_of, own_shop
from tests.recovery.losses import until_recovered, until_sold

ROLE = "shop_app"
FORBIDDEN = (
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE orders ADD COLUMN mine int",
    "CREATE INDEX mine ON orders (id)",
    "DROP TABLE orders",
    "TRUNCATE orders",
    "UPDATE alembic_version SET version_num = 'mine'",
    "CREATE ROLE mine",
    "COPY orders TO '/tmp/mine'",
)


@pytest.fixture
async def app_settings(fresh_settings: Settings, tmp_path: Path) -> Settings:
    """A shop whose schema the owner has made, and whose processes run as the other role."""
    owner = fresh_settings
    database = Database(owner, application_name="a-test")
    async with database.transaction() as session:
        there = await session.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": ROLE})
        if there.first() is None:
            await session.execute(text(f"CREATE ROLE {ROLE} LOGIN"))
    await database.close()
    said = await asyncio.to_thread(run, tmp_path, "migrate", "--grant-to", ROLE, **environment_of(owner))
    assert said.status == 0, said
    return copy_of(owner, database_url=owner.database_url.replace("//shop@", f"//{ROLE}@"))


async def test_api_and_worker_do_their_work_as_a_role_that_cannot_create_a_table(
    app_settings: Settings, tmp_path: Path
) -> None:
    """A sale is made, sold, changed, lost, recovered and proven; accounts, products and ordinary orders work."""
    async with own_shop(app_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        buyer = await shop.sign_up()
        sale = await shop.open_sale(units=5)
        order_id = await shop.bought(sale)
        await shop.drained(sale)
        assert (await shop.change(sale, "stock", {"delta": -1})).status_code in {200, 202}
        await shop.redis.flushdb()
        await until_recovered(shop, sale, epoch=2)
        await until_sold(shop, sale)
        await shop.drained(sale)
        assert (await shop.audit(sale)).balanced
        product = await shop.make_product(stock=1)
        answer = await (await shop.client()).post(
            "/v1/orders",
            headers={**buyer, "Idempotency-Key": order_id},
            json={"lines": [{"product_id": product.id, "quantity": 1}]},
        )
        assert answer.status_code == 201, answer.text
        assert (await (await shop.client()).get("/readyz")).json()["status"] == "ready"
        assert outcome(await shop.buy(sale)) == "reserved"


async def test_the_role_cannot_change_the_schema_or_more_than_rows(app_settings: Settings) -> None:
    database = Database(app_settings, application_name="a-test")
    for statement in FORBIDDEN:
        async with database.transaction() as session:
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                await session.execute(text(statement))
            await session.rollback()
    await database.close()


async def test_a_role_that_is_not_there_is_one_line(clean_settings: Settings, tmp_path: Path) -> None:
    said = await asyncio.to_thread(run, tmp_path, "migrate", "--grant-to", 'no"body', **environment_of(clean_settings))

    assert (said.status, said.errors.count("\n")) == (2, 1)
    assert 'no"body' in said.errors
