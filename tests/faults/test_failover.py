"""Another server takes over for the ledger's: a replica that lags behind, while the old one may still be there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio as aioredis

from loadtests.chaos import ChaosProxy, Pass, Stall, chaos_proxy
from shop.embedded import ValkeyServer
from shop.ledger import client as ledger
from shop.redis import connect
from shop.settings import Settings
from tests.crowd import Crowd, recorded
from tests.harness import LOGINS, outcome, running_shop, wait_until
from tests.ports import unused_port
from tests.processes import OwnShop, copy_of, own_shop
from tests.recovery.losses import assert_kept, until_recovered

STOPPED_SECONDS = 5.0


@dataclass
class Pair:
    """A master and its replica; `front` is where the shop looks for its ledger, `link` is between the two."""

    own: OwnShop
    replica: ValkeyServer
    to_replica: aioredis.Redis
    front: ChaosProxy
    link: ChaosProxy

    async def until_replicated(self) -> None:
        """Wait until the replica has what the master has."""

        async def same() -> bool:
            theirs, ours = await self.to_replica.info("replication"), await self.own.shop.redis.info("replication")
            up = theirs.get("master_link_status") == "up"
            return up and bool(theirs["slave_repl_offset"] == ours["master_repl_offset"])

        await wait_until(same, reason="the replica has everything")

    async def fail_over(self) -> None:
        """Promote the replica, and lead the shop to it."""
        await ledger.command(self.to_replica, "REPLICAOF", "NO", "ONE")
        self.front.lead_to(self.replica.url)
        self.front.reset_all()


@asynccontextmanager
async def replicated(settings: Settings, directory: Path) -> AsyncIterator[Pair]:
    """A shop whose ledger has a replica."""
    port = unused_port()
    listening = ("--port", str(port), "--bind", "127.0.0.1")
    master = ValkeyServer(directory, name="master", extra=listening, users=LOGINS.lines)
    async with chaos_proxy(f"redis://127.0.0.1:{port}") as link, chaos_proxy(master.url) as front:
        host, _, link_port = link.url.rpartition("//")[2].partition(":")
        following = ("--replicaof", host, link_port, "--repl-diskless-sync-delay", "0")
        replica = ValkeyServer(directory, name="replica", extra=following, users=LOGINS.lines)
        async with own_shop(settings, directory, worker_here=True, valkey=master, redis_url=front.url) as own:
            replica.start()
            to_replica = connect(replica.url, settings)
            try:
                yield Pair(own, replica, to_replica, front, link)
            finally:
                await to_replica.aclose(close_connection_pool=True)
                replica.stop()


async def test_a_replica_that_lags_is_promoted_and_no_promise_is_lost(fresh_settings: Settings, tmp_path: Path) -> None:
    """It does not know the last orders, and Postgres knows some of them: a new epoch (I4, I6, faults 7)."""
    async with replicated(fresh_settings, tmp_path) as pair:
        shop = pair.own.shop
        sale = await shop.open_sale(units=60)
        crowd = await Crowd(shop, sale).run(buyers=10)
        await pair.until_replicated()
        await pair.link.be(Stall())
        await crowd.run(buyers=20)
        pair.own.valkey.kill()
        trying = asyncio.create_task(crowd.run(buyers=40, queues=2))
        await pair.fail_over()

        await until_recovered(shop, sale, epoch=2)
        await trying
        assert (len(crowd.orders), crowd.finals["sold_out"]) == (60, 10)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_a_process_that_still_reaches_the_old_master_stops_selling(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Split brain: Postgres tells it of the new epoch, and it reports what it reserved meanwhile (I6, faults 8)."""
    async with (
        replicated(fresh_settings, tmp_path) as pair,
        running_shop(copy_of(pair.own.shop.settings, redis_url=pair.own.valkey.url), worker=False) as left_behind,
    ):
        shop = pair.own.shop
        sale = await shop.open_sale(units=60)
        await left_behind.until_loaded(sale)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await pair.until_replicated()
        await pair.link.be(Stall())
        await pair.fail_over()
        await pair.link.be(Pass())
        behind = await Crowd(left_behind, sale).run(buyers=3)

        await until_recovered(shop, sale, epoch=2)
        await crowd.run(buyers=5)

        async def stopped() -> bool:
            answer = await left_behind.buy(sale)
            if answer.status_code == 202:
                behind.orders[answer.json()["id"]] = answer.json()["id"]
            return outcome(answer) == "not_ready"

        await wait_until(stopped, within=STOPPED_SECONDS, reason="the old master sells no more")
        promised = {*crowd.orders.values(), *behind.orders.values()}

        async def all_recorded() -> bool:
            return await recorded(shop, sale) == sorted(promised)

        await wait_until(all_recorded, reason="what was promised on both sides is recorded")
        await assert_kept(shop, sale, promised)
