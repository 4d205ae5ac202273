"""API processes that end in mid-sale: the counters are in Redis alone, and a retry finds what was promised."""

import asyncio
import signal
from pathlib import Path

import httpx
import redis.asyncio as aioredis

from shop.embedded import EmbeddedServers
from shop.ledger import client as ledger
from shop.sales.models import Sale
from shop.settings import Settings
from tests.crowd import Crowd, assert_each_recorded_once, ids_of
from tests.harness import Shop, new_user_id, wait_until
from tests.processes import copy_of, own_shop


async def counters(shop: Shop, sale: Sale) -> tuple[int, int]:
    """Available units and the sequence number, as Redis has them."""
    state = await ledger.read_state(shop.redis, sale.id, 1)
    assert state is not None
    return state.available, state.seq


async def test_an_api_killed_in_mid_sale_loses_nothing_and_its_successor_resets_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Starting never sets a counter; a buyer whose answer was lost gets the truth by their key (F3, F8, faults 1)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        through = own.through(await own.processes.start_api("first"))
        sale = await through.open_sale(units=200)
        crowd = Crowd(through, sale)
        buying = asyncio.create_task(crowd.run(buyers=300))
        await crowd.until(100)
        own.processes.send("first", signal.SIGKILL)
        assert await own.processes.until_dead("first") == -signal.SIGKILL
        _, seq_before = await counters(own.shop, sale)

        # The crowd goes on at another API; all who got no answer ask again with their keys.
        crowd.shop = own.shop
        await own.processes.start_api("second")
        await through.until_loaded(sale)
        available, seq = await counters(own.shop, sale)
        assert available + seq == 200
        assert seq >= seq_before

        winner, order_id = next(iter(crowd.orders.items()))
        retried = await through.buy(sale, winner, key=f"key-of-{winner}")
        assert (retried.status_code, retried.json()["id"]) == (200, order_id)
        assert retried.headers["Idempotency-Replayed"] == "true"
        await buying
        assert (len(crowd.orders), crowd.finals["sold_out"]) == (200, 100)
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        await (await through.client()).aclose()


async def test_sigterm_lets_an_api_answer_the_requests_in_hand(
    servers: EmbeddedServers, fresh_settings: Settings, tmp_path: Path
) -> None:
    """A rolling restart fails no request that was taken (faults 33)."""
    # The limiter has a Redis of its own here, so that what waits in the ledger's Redis is the purchases.
    settings = copy_of(fresh_settings, cache_redis_url=f"{servers.redis_url}?db=7")
    async with own_shop(settings, tmp_path, worker_here=True) as own:
        through = own.through(await own.processes.start_api("api"))
        sale = await own.shop.open_sale(units=10)
        await through.until_loaded(sale)
        await own.shop.redis.client_pause(5_000, all=False)
        purchases = [asyncio.create_task(through.buy(sale, new_user_id()))]
        await wait_until(lambda: waits(own.shop.redis), reason="a purchase waits for the ledger")
        purchases.append(asyncio.create_task(through.buy(sale, new_user_id())))
        await wait_until(lambda: waits(own.shop.redis, behind=True), reason="another one waits behind it")

        own.processes.send("api", signal.SIGTERM)
        await wait_until(lambda: refuses(through.base_url), reason="the API takes no more connections")
        await own.shop.redis.client_unpause()

        answers = await asyncio.gather(*purchases)
        assert [answer.status_code for answer in answers] == [202, 202]
        # The server ends by the signal that it was sent, once it has done its work.
        assert await own.processes.until_dead("api") in {0, -signal.SIGTERM}
        await assert_each_recorded_once(own.shop, sale, ids_of(answers))
        await (await through.client()).aclose()


async def waits(client: aioredis.Redis, *, behind: bool = False) -> bool:
    """Whether a call of a script is held back by the pause, and another one `behind` it on its connection."""
    clients = await client.client_list()
    held_back = [each for each in clients if each["cmd"] == "evalsha" and "b" in each["flags"]]
    return any(int(each["qbuf"]) > 0 for each in held_back) if behind else bool(held_back)


async def refuses(base_url: str) -> bool:
    """Whether a new connection is refused; one that was still waiting to be taken may be closed unanswered."""
    try:
        async with httpx.AsyncClient(base_url=base_url) as client:
            await client.get("/livez")
    except httpx.TransportError as error:
        return isinstance(error, httpx.ConnectError)
    return False
