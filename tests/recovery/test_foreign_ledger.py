"""A ledger that another database has made: it is seen and named, nothing is sold from it, and it is left as it is."""

from pathlib import Path

import pytest
import redis.asyncio as aioredis
from sqlalchemy import event, text

from shop.database import Database
from shop.embedded import ValkeyServer
from shop.ledger_owner import FOREIGN, KEY, claim_ledger, is_foreign, is_own
from shop.redis import connect
from shop.sales import service
from shop.settings import Settings
from tests.conftest import settings_of
from tests.harness import LOGINS, TESTER, Shop, outcome, wait_until
from tests.processes import own_shop


async def give_salt(settings: Settings) -> None:
    """Make a copied database another shop's, as if it had been migrated by itself."""
    database = Database(settings, application_name="a-test")
    async with database.transaction() as session:
        await session.execute(text("UPDATE order_salts SET salt = decode(md5(random()::text), 'hex')"))
    await database.close()


async def reason(shop: Shop) -> str:
    answer = await (await shop.client()).get("/readyz")
    return str(answer.json()["checks"]["durability"])


async def everything(valkey: ValkeyServer, settings: Settings) -> dict[bytes, bytes | None]:
    """All that a Redis holds of ledgers."""
    client = connect(valkey.url, settings)
    found = {key: await client.dump(key) for key in await client.keys("shop:*{*")}
    await client.aclose(close_connection_pool=True)
    return found


async def test_a_database_keeps_its_name_for_a_moment_and_is_asked_again_before_a_ledger_is_foreign(
    fresh_settings: Settings, redis: aioredis.Redis
) -> None:
    """Several loops ask four times a second; behind the same address there may be another database."""
    database = Database(fresh_settings, application_name="a-test")
    asked: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *found: asked.append(found[2]))
    await claim_ledger(database, redis)
    assert await is_own(database, redis)
    asked.clear()

    assert (await is_foreign(database, redis), await is_own(database, redis), asked) == (False, True, [])

    await redis.set(KEY, "another's")
    assert (await is_foreign(database, redis), await is_own(database, redis), len(asked)) == (True, False, 2)
    await give_salt(fresh_settings)
    await redis.delete(KEY)
    await claim_ledger(database, redis)
    assert (await is_foreign(database, redis), await is_own(database, redis)) == (False, True)
    await database.close()


@pytest.mark.parametrize("marked", [True, False], ids=["claimed", "of an older release"])
async def test_a_new_sale_never_opens_over_the_ledger_of_another_database(
    fresh_settings: Settings, servers: object, template_database: str, tmp_path: Path, marked: bool
) -> None:
    """Postgres was restored empty, Redis is alive: its sale 1 is over, and every buyer would be told so."""
    valkey = ValkeyServer(tmp_path, users=LOGINS.lines)
    name = "another_of_claimed" if marked else "another"
    other = settings_of(servers, database=name, redis_number=0, template=template_database)  # type: ignore[arg-type]
    await give_salt(other)
    async with own_shop(fresh_settings, tmp_path, worker_here=True, valkey=valkey) as own:
        sale = await own.shop.open_sale(units=1)
        await own.shop.bought(sale)
        await own.shop.drained(sale)
        if not marked:
            await own.shop.redis.delete(KEY)
    valkey.start()
    before = await everything(valkey, other)

    async with own_shop(other, tmp_path, worker_here=True, valkey=valkey) as own:
        shop = own.shop
        new = await shop.draft_sale(units=1)
        async with shop.database.transaction() as session:
            await service.schedule(session, TESTER, new.id)
        assert new.id == sale.id
        if marked:
            assert FOREIGN in await reason(shop)
        assert (await shop.change(new, "pause")).status_code in {200, 202}
        assert (await shop.change(new, "resume")).status_code in {200, 202}
        for _ in range(20):
            assert outcome(await shop.buy(new)) in {"not_ready", "sale_paused"}
        assert await everything(valkey, other) == before
        assert (await shop.row(new)).alarm is None

        await shop.redis.flushdb()  # as the operator, who needs the old ledger no more
        await shop.until_loaded(new)
        assert outcome(await shop.buy(new)) == "reserved"
        assert await reason(shop) == "ok"
        await shop.drained(new)


async def test_a_shop_that_was_restored_or_updated_keeps_its_ledger(fresh_settings: Settings, tmp_path: Path) -> None:
    """The same database without the mark: its sales are known by their salts, and the ledger is claimed again."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=2)
        await own.shop.bought(sale)
        claimed = await own.shop.redis.get(KEY)
        await own.shop.redis.delete(KEY)

        async def again() -> bool:
            return bool(await own.shop.redis.get(KEY) == claimed)

        await wait_until(again, reason="the ledger is claimed again")
        assert outcome(await own.shop.buy(sale)) == "reserved"
        await own.shop.drained(sale)
