"""An upgrade in mid-sale: workers first, then the API, and back, with the scripts of the release before."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shop import redis as shop_redis
from shop.ledger.keys import ledger_keys
from shop.redis import CONNECTION_ERRORS, SCRIPTS_BEFORE, Script, script, scripts_loaded
from shop.sales.models import Sale
from shop.settings import Settings
from tests.harness import Shop, new_user_id, outcome, wait_until
from tests.processes import OwnShop, own_shop
from tests.recovery.losses import assert_kept


@contextmanager
def release_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The API of this process sends the scripts of the release before; the workers are processes of this release."""

    def sent(name: str, *, before: bool = False) -> Script:
        return script(name, before=before or name in SCRIPTS_BEFORE)

    with monkeypatch.context() as patch:
        patch.setattr(shop_redis, "script", sent)
        yield


async def sold(shop: Shop, sale: Sale, orders: int) -> list[str]:
    """Orders of new buyers; who is told that the shop is not ready asks again."""
    found = []
    for _ in range(orders):
        user = new_user_id()

        async def reserved(user: str = user) -> str | None:
            answer = await shop.buy(sale, user)
            return answer.json()["id"] if outcome(answer) in {"reserved", "replayed"} else None

        found.append(await wait_until(reserved, reason="the shop sells"))
    return found


async def restart(own: OwnShop) -> None:
    """Redis restarts, and the worker loads the scripts."""
    own.valkey.kill()
    own.valkey.start()

    async def there() -> bool:
        with suppress(*CONNECTION_ERRORS):  # those of before
            return await scripts_loaded(own.shop.redis)
        return False

    await wait_until(there, reason="the worker has loaded the scripts")


async def fields_of_the_last(shop: Shop, sale: Sale) -> set[bytes]:
    """The names of the fields of the last entry in the stream."""
    [(_, fields)] = await shop.redis.xrevrange(ledger_keys(sale.id, 1).stream, count=1)
    return set(fields)


async def test_both_releases_sell_from_one_ledger_while_redis_restarts(
    fresh_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upgrade, restart and roll-back cost no order, and every event is recorded, whichever script has written it."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        own.processes.start_worker()
        sale = await shop.open_sale(units=20)
        with release_before(monkeypatch):
            orders = await sold(shop, sale, 3)
            await restart(own)
            orders += await sold(shop, sale, 3)
            assert {b"kind", b"order", b"user"} <= await fields_of_the_last(shop, sale)
        orders += await sold(shop, sale, 3)
        assert await fields_of_the_last(shop, sale) == {b"reserved"}
        await restart(own)
        orders += await sold(shop, sale, 2)
        with release_before(monkeypatch):
            orders += await sold(shop, sale, 2)

        await shop.drained(sale)
        await assert_kept(shop, sale, orders)
        assert len(set(orders)) == 13
        assert (await shop.audit(sale)).balanced
