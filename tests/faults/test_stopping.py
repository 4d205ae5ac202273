"""A rolling restart in the middle of other faults: what was accepted is answered, and nothing is lost."""

import asyncio
import signal
from pathlib import Path

from loadtests.chaos import Delay, Pass, chaos_proxy
from shop.embedded import PostgresServer, ValkeyServer
from shop.settings import Settings
from tests.harness import LOGINS
from tests.processes import copy_of, frozen, own_shop
from tests.server.processes.crowd import assert_all_recorded, buying

CONNECTIONS = 8
STOPPED_SECONDS = 30.0


async def test_a_stop_while_postgres_hangs_and_the_ledger_is_slow_fails_no_request(
    postgres: PostgresServer, breakable: Settings, tmp_path: Path
) -> None:
    """The API answers what it took, the worker leaves what it cannot record, and the next one does (I6, faults 33)."""
    valkey = ValkeyServer(tmp_path, users=LOGINS.lines)
    async with (
        chaos_proxy(valkey.url) as proxy,
        own_shop(copy_of(breakable, graceful_stop_seconds=5), tmp_path, valkey=valkey, redis_url=proxy.url) as own,
    ):
        own.processes.start_worker("first")
        through = own.through(await own.processes.start_api("api"))
        sale = await own.shop.open_sale(units=100_000)
        await through.until_loaded(sale)
        await proxy.be(Delay(0.005, jitter_seconds=0.02))
        async with buying(through, sale, connections=CONNECTIONS, warm_up=30) as crowd:
            with frozen(postgres.pid):
                await crowd.until_served(30)
                own.processes.send("first", signal.SIGTERM)
                own.processes.send("api", signal.SIGTERM)
                status = await own.processes.until_dead("api", within=STOPPED_SECONDS)
                worker_status = await own.processes.until_dead("first", within=STOPPED_SECONDS)
        assert status in {0, -signal.SIGTERM}
        assert worker_status == 0
        # Each connection ended with an answer that said so; who came then found nobody.
        assert (crowd.lost, crowd.unannounced, crowd.refused) == (0, 0, CONNECTIONS)
        assert set(crowd.statuses) == {202}

        await proxy.be(Pass())
        own.processes.start_worker("second")
        crowd.shop = own.shop
        async with asyncio.timeout(STOPPED_SECONDS):
            await assert_all_recorded(crowd)
        await (await through.client()).aclose()
