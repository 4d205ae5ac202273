"""A network that loses, holds up and forgets: nothing is done twice, nothing hangs, and nothing is done too late."""

import asyncio
from pathlib import Path

from loadtests.chaos import ChaosProxy, Delay, LoseReply, LoseRequest, Pass, Stall, Way, chaos_proxy
from shop.embedded import ValkeyServer
from shop.ledger import client as ledger
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd, assert_each_recorded_once
from tests.harness import LOGINS, Shop, new_user_id, outcome, running_shop, wait_until
from tests.processes import copy_of, own_shop

HEALED_SECONDS = 30.0
EVERYTHING = LoseRequest(times=None)  # each connection that is used meanwhile stays silent for ever


async def until_forgotten(proxy: ChaosProxy, connections: int) -> None:
    """Wait until the network has forgotten so many connections."""

    async def forgotten() -> bool:
        return proxy.injected >= connections

    await wait_until(forgotten, reason=f"{connections} connections are half open")


async def test_a_reply_that_is_lost_between_client_and_api_is_found_by_the_next_try(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Each buyer's first answer is lost in a reset; a retry with the same key finds the one order (I6, faults 1)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=30)
        async with chaos_proxy(own.shop.base_url) as proxy:
            through = own.through(proxy.url)
            await proxy.be(LoseReply(b"/orders", reset=True, times=20))
            crowd = await Crowd(through, sale).run(buyers=20, queues=4)
            await (await through.client()).aclose()

        assert (proxy.injected, crowd.passing) == (20, {"reset": 20})
        assert crowd.finals == {"replayed": 20 - crowd.finals["reserved"], "reserved": crowd.finals["reserved"]}
        assert crowd.finals["replayed"] > 0
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())


async def test_a_purchase_that_the_network_held_up_is_not_done_when_nobody_waits_for_it_any_more(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It arrives after its deadline, and the ledger knows by its own clock: no ghosts (I9, faults 11)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=50)
        async with (
            chaos_proxy(own.valkey.url) as proxy,
            running_shop(
                # So that the connection to the ledger is free for the purchases when the network stalls.
                copy_of(
                    own.shop.settings,
                    redis_url=proxy.url,
                    cache_redis_url=own.valkey.url,
                    directory_poll_seconds=60,
                ),
                worker=False,
            ) as held_up,
        ):
            crowd = Crowd(held_up, sale)
            await held_up.until_loaded(sale)
            await proxy.be(Stall(frozenset({Way.TO_SERVER})))
            tries = await asyncio.gather(*(crowd.once(new_user_id()) for _ in range(20)))
            assert set(tries) <= {"unknown_outcome", "not_ready", "overloaded"}
            assert "unknown_outcome" in tries
            await proxy.be(Pass())
            assert await crowd.once(new_user_id()) == "reserved"

        state = await ledger.read_state(own.shop.redis, sale.id, 1)
        assert state is not None
        assert (state.seq, state.available) == (1, 49)
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())


async def test_a_slow_network_loses_and_doubles_nothing(fresh_settings: Settings, tmp_path: Path) -> None:
    """API and worker are some milliseconds away from the ledger, now more, now less (I6, faults 18)."""
    valkey = ValkeyServer(tmp_path, users=LOGINS.lines)
    async with (
        chaos_proxy(valkey.url) as proxy,
        own_shop(fresh_settings, tmp_path, worker_here=True, valkey=valkey, redis_url=proxy.url) as own,
    ):
        sale = await own.shop.open_sale(units=40)
        await proxy.be(Delay(0.005, jitter_seconds=0.03))
        crowd = await Crowd(own.shop, sale).run(buyers=60)

        assert (len(crowd.orders), crowd.finals["sold_out"]) == (40, 20)
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        await proxy.be(Pass())


async def test_half_open_connections_to_the_ledger_are_given_up_and_replaced(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The network forgets them without a word: every socket has a timeout, so all heals by itself (I12, faults 18)."""
    valkey = ValkeyServer(tmp_path, users=LOGINS.lines)
    async with (
        chaos_proxy(valkey.url) as proxy,
        own_shop(fresh_settings, tmp_path, worker_here=True, valkey=valkey, redis_url=proxy.url) as own,
    ):
        sale = await own.shop.open_sale(units=60)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=60))
        await crowd.until(10)
        await proxy.be(EVERYTHING)
        await until_forgotten(proxy, 6)
        await proxy.be(Pass())
        async with asyncio.timeout(HEALED_SECONDS):
            await buying
            await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        assert len(crowd.orders) == 60


async def test_half_open_connections_to_postgres_are_given_up_and_replaced(breakable: Settings, tmp_path: Path) -> None:
    """Buyers do not notice; the worker's batch that waited in vain is compared and done again (I6, I12, faults 18)."""
    quick = copy_of(breakable, database_ping_seconds=0.5)
    async with (
        own_shop(quick, tmp_path) as own,
        chaos_proxy(breakable.database_url) as proxy,
        running_worker(copy_of(own.shop.settings, database_url=proxy.url)),
    ):
        sale = await own.shop.open_sale(units=60)
        crowd = Crowd(own.shop, sale)
        await crowd.run(buyers=10)
        await own.shop.drained(sale)
        await proxy.be(EVERYTHING)
        await crowd.run(buyers=30)
        await until_forgotten(proxy, 4)
        await proxy.be(Pass())
        async with asyncio.timeout(HEALED_SECONDS):
            await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        assert (crowd.finals, crowd.passing) == ({"reserved": 40}, {})
        assert (await own.shop.row(sale)).alarm is None


async def reads(shop: Shop) -> str:
    """What a request that only Postgres can answer comes to."""
    answer = await (await shop.client()).get("/v1/orders", headers=shop.headers())
    return "read" if answer.status_code == 200 else outcome(answer)


async def test_requests_on_half_open_connections_to_postgres_are_refused_and_the_next_ones_are_served(
    breakable: Settings, tmp_path: Path
) -> None:
    """A read that waits in vain is a 503, never a hang; the sale that the process knows goes on (faults 15, 18)."""
    quick = copy_of(breakable, database_statement_timeout_seconds=0.5, database_ping_seconds=0.2)
    async with (
        own_shop(quick, tmp_path, worker_here=True) as own,
        chaos_proxy(breakable.database_url) as proxy,
        running_shop(copy_of(own.shop.settings, database_url=proxy.url), worker=False) as cut_off,
    ):
        sale = await own.shop.open_sale(units=5)
        await cut_off.until_loaded(sale)
        assert await reads(cut_off) == "read"
        await proxy.be(EVERYTHING)
        async with asyncio.timeout(HEALED_SECONDS):
            assert await asyncio.gather(*(reads(cut_off) for _ in range(3))) == ["unavailable"] * 3
        assert outcome(await cut_off.buy(sale)) == "reserved"
        await proxy.be(Pass())

        async def served() -> bool:
            return await reads(cut_off) == "read"

        await wait_until(served, within=HEALED_SECONDS, reason="reads are served again")
        assert (await own.shop.audit(await own.shop.drained(sale))).balanced
