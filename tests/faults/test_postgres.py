"""Postgres that loses backends, is stopped at once, takes no more connections or is full: only the drain waits."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from shop.embedded import PostgresServer
from shop.migrating import migrate
from shop.orders.persister import APPLICATION_NAME
from shop.settings import Settings
from tests.crowd import Crowd, assert_each_recorded_once
from tests.faults.full_disk import full, small_disk
from tests.faults.operating import HEALED_SECONDS, operator
from tests.harness import Shop, outcome, running_shop, wait_until
from tests.processes import copy_of, own_shop

ROLE = "limited"
KEPT = {"shop-api": 8, "shop-worker": 4, "shop-persister": 4}  # with four of each pool
WAL_SEGMENTS_MAX = 20  # switched until there is no room for another


async def until_readable(shop: Shop) -> None:
    """Wait until Postgres answers requests again; until then each is refused, and none is an error of ours."""

    async def readable() -> bool:
        answer = await (await shop.client()).get("/v1/orders", headers=shop.headers())
        assert answer.status_code in {200, 503}, answer.text
        return answer.status_code == 200

    await wait_until(readable, within=HEALED_SECONDS, reason="orders can be read again")


@pytest.mark.parametrize("how", ["a backend is killed", "it is stopped at once"])
async def test_what_ends_all_backends_in_mid_drain_loses_and_doubles_nothing(
    postgres: PostgresServer, breakable: Settings, tmp_path: Path, how: str
) -> None:
    """One backend that is killed takes all others along; a batch without an answer is compared (I6, faults 14)."""
    async with own_shop(breakable, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=100)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=120))
        await crowd.until(30)
        if how == "a backend is killed":
            await kill_a_backend(breakable)
        else:
            os.kill(postgres.pid, signal.SIGQUIT)
            await crowd.until(60)
            await asyncio.to_thread(postgres.stop)
            await asyncio.to_thread(postgres.start)
        await buying
        async with asyncio.timeout(HEALED_SECONDS):
            await until_readable(own.shop)
            await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        assert crowd.finals == {"reserved": 100, "sold_out": 20}
        assert crowd.passing == {}
        assert (await own.shop.row(sale)).alarm is None


async def kill_a_backend(settings: Settings) -> None:
    """Kill the process that serves the persister."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
    async with operator(settings) as connection:
        os.kill(await connection.fetchval(query, APPLICATION_NAME), signal.SIGKILL)
        with suppress(asyncpg.PostgresError, OSError):
            await connection.fetchval("SELECT pg_sleep(10)")


async def test_a_postgres_that_takes_no_more_connections_refuses_reads_and_stops_no_sale(
    breakable: Settings, tmp_path: Path
) -> None:
    """The shop's role gets one connection: reads are 503, purchases go on, the drain follows (I6, I12, faults 17)."""
    as_role = copy_of(breakable, database_url=breakable.database_url.replace("//shop@", f"//{ROLE}@"))
    async with operator(breakable) as connection:
        await connection.execute(
            f"CREATE ROLE {ROLE} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE};"
            f" GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"
        )
        async with own_shop(as_role, tmp_path) as own:
            own.processes.start_worker()
            sale = await own.shop.open_sale(units=100)
            await connection.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", ROLE)
            crowd = await Crowd(own.shop, sale).run(buyers=60)
            client, headers = await own.shop.client(), own.shop.headers()
            answers = await asyncio.gather(*(client.get("/v1/orders", headers=headers) for _ in range(10)))
            assert 503 in {answer.status_code for answer in answers}
            assert {outcome(answer) for answer in answers if answer.status_code != 200} == {"unavailable"}
            await connection.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")

            async with asyncio.timeout(HEALED_SECONDS):
                await until_readable(own.shop)
                await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
            assert (crowd.finals, crowd.passing) == ({"reserved": 60}, {})


async def test_while_others_have_all_connections_the_shop_sells_and_records_with_those_it_has_kept(
    breakable: Settings, tmp_path: Path
) -> None:
    """They take whatever is free, and again; each purchase is accepted, and what is due is done meanwhile."""
    as_role = copy_of(breakable, database_url=breakable.database_url.replace("//shop@", "//crowded@"))
    async with operator(breakable) as connection:
        await connection.execute(
            "CREATE ROLE crowded LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO crowded;"
            " GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO crowded"
        )
        kept = copy_of(as_role, database_pool_kept=4)
        async with own_shop(kept, tmp_path, worker_here=True) as own:
            shop = own.shop
            sale = await shop.open_sale(units=1_000)

            async def opened() -> bool:
                query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'crowded' AND application_name = $1"
                counts = {name: await connection.fetchval(query, name) for name in KEPT}
                return all(counts[name] >= number for name, number in KEPT.items())

            await wait_until(opened, reason="the connections are opened")
            used = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'crowded'")
            await connection.execute(f"ALTER ROLE crowded CONNECTION LIMIT {used}")
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await asyncpg.connect(as_role.database_url.replace("+asyncpg", ""))
            crowd = Crowd(shop, sale)
            orders = set()
            for _ in range(3):
                await crowd.run(buyers=30)
                assert (await (await shop.client()).get("/readyz")).status_code == 200
                other = await shop.open_sale(units=1)  # which the worker loads, and the API learns of
                orders.add(await shop.bought(other))
                assert (await shop.drained(other)).units_taken == 1
            assert (crowd.finals, crowd.passing) == ({"reserved": 90}, {})
            await assert_each_recorded_once(shop, sale, crowd.orders.values())
            await connection.execute("ALTER ROLE crowded CONNECTION LIMIT -1")


async def test_a_process_whose_heartbeats_go_unanswered_for_too_long_sells_no_more_until_one_is(
    breakable: Settings, tmp_path: Path
) -> None:
    """It may be left at an old ledger, and nobody can tell it (faults 8)."""
    async with operator(breakable) as connection:
        await connection.execute("CREATE ROLE deaf LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO deaf")
        as_deaf = copy_of(
            breakable,
            database_url=breakable.database_url.replace("//shop@", "//deaf@"),
            heartbeat_silence_seconds_max=1.0,
        )
        async with own_shop(breakable, tmp_path, worker_here=True) as own:
            sale = await own.shop.open_sale(units=100)
            async with running_shop(copy_of(as_deaf, redis_url=own.shop.settings.redis_url), worker=False) as deaf:
                await deaf.until_loaded(sale)
                await connection.execute("ALTER ROLE deaf NOLOGIN")
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'deaf'"
                )
                assert outcome(await deaf.buy(sale)) == "reserved"

                async def stopped() -> bool:
                    answer = await deaf.buy(sale)
                    assert answer.status_code in {202, 503}, answer.text
                    return answer.status_code == 503

                await wait_until(stopped, reason="it sells no more")
                assert outcome(await own.shop.buy(sale)) == "reserved"
                await connection.execute("ALTER ROLE deaf LOGIN")
                await deaf.until_loaded(sale)
                assert outcome(await deaf.buy(sale)) == "reserved"
            await own.shop.drained(sale)
            assert (await own.shop.audit(sale)).balanced


async def test_a_postgres_whose_disk_is_full_records_everything_once_there_is_room(
    live_settings: Settings, tmp_path: Path
) -> None:
    """It panics and goes down; the backlog stays in the stream, and nothing pauses the sale (I6, faults 16)."""
    with small_disk(tmp_path / "disk", megabytes=192) as disk:
        postgres = PostgresServer(disk, durable=False)
        postgres.start()
        try:
            settings = copy_of(live_settings, database_url=postgres.url)
            await asyncio.to_thread(migrate, settings)
            async with own_shop(settings, tmp_path, worker_here=True) as own:
                sale = await own.shop.open_sale(units=100)
                crowd = await Crowd(own.shop, sale).run(buyers=20)
                with full(disk):
                    await use_up(settings)
                    await crowd.run(buyers=40)
                await asyncio.to_thread(postgres.start)
                async with asyncio.timeout(HEALED_SECONDS):
                    await until_readable(own.shop)
                    await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
                row = await own.shop.row(sale)
                assert (crowd.finals, row.alarm, row.paused) == ({"reserved": 60}, None, False)
        finally:
            postgres.stop()


async def use_up(settings: Settings) -> None:
    """Make Postgres want one more file than there is room for."""
    switch = "CREATE TABLE IF NOT EXISTS filler (); DROP TABLE filler; SELECT pg_switch_wal();"
    async with operator(settings) as connection:
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await connection.execute(switch * WAL_SEGMENTS_MAX)
