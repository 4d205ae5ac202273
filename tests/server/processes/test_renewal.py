"""Processes that are replaced while a crowd buys: asked for, or because one is gone."""

import asyncio
import os
import signal

from loadtests.client.http import Address, Connection
from tests.harness import wait_until
from tests.server.processes.crowd import ANSWER_SECONDS, assert_all_recorded, buying
from tests.server.processes.served import NAME, ServedApi

RESTART_SECONDS_MAX = 3.0
UNITS = 100_000
NEWCOMERS = 32


async def test_sighup_replaces_every_process_and_no_request_fails(pool: ServedApi) -> None:
    before = set(pool.workers())
    sale = await pool.open_sale(units=UNITS)

    async with buying(pool.shop, sale) as crowd:
        pool.processes.send(NAME, signal.SIGHUP)
        await pool.until_workers(2, without=before)
        await crowd.until_served(100)

    assert crowd.perfect, crowd
    await assert_all_recorded(crowd)


async def test_a_process_that_is_asked_to_stop_alone_is_replaced_and_no_request_fails(pool: ServedApi) -> None:
    asked, stays = pool.workers()
    sale = await pool.open_sale(units=UNITS)

    async with buying(pool.shop, sale) as crowd:
        os.kill(asked, signal.SIGTERM)
        after = await pool.until_workers(2, without={asked})
        await crowd.until_served(100)

    assert stays in after
    assert crowd.perfect, crowd
    await assert_all_recorded(crowd)


async def test_a_process_that_is_killed_is_replaced_and_what_it_has_accepted_is_kept(pool: ServedApi) -> None:
    """A buyer without an answer asks again with their key; every 202 is an order."""
    killed, stays = pool.workers()
    sale = await pool.open_sale(units=UNITS)

    async with buying(pool.shop, sale) as crowd:
        os.kill(killed, signal.SIGKILL)
        await crowd.until_served(50)
        after = await pool.until_workers(2, without={killed}, within=RESTART_SECONDS_MAX)
        await crowd.until_served(100)

    assert stays in after
    assert set(crowd.statuses) <= {200, 202}
    assert not crowd.refused
    await assert_all_recorded(crowd)


async def test_the_backlog_of_a_process_that_is_killed_is_accepted_by_another(pool: ServedApi) -> None:
    """Its listener is the parent's, so the kernel resets no connection."""
    killed, _ = pool.workers()
    os.kill(killed, signal.SIGSTOP)
    waiting = [asyncio.create_task(fresh_answer(pool)) for _ in range(NEWCOMERS)]
    await wait_until(lambda: half_wait(waiting), reason="only those at the other process are answered")

    os.kill(killed, signal.SIGKILL)

    assert set(await asyncio.gather(*waiting)) == {200}
    await pool.until_workers(2, without={killed})


async def test_the_backlog_of_a_process_that_is_stuck_is_accepted_by_another(pool: ServedApi) -> None:
    stuck, _ = pool.workers()
    os.kill(stuck, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(fresh_answer(pool) for _ in range(NEWCOMERS)))
    finally:
        os.kill(stuck, signal.SIGCONT)

    assert set(answers) == {200}
    assert stuck in pool.workers()


async def fresh_answer(pool: ServedApi) -> int:
    """The status of an answer to somebody who has just come."""
    address = Address.of(pool.shop.base_url)
    connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS)
    answer = await connection.exchange(address.request("GET", "/livez", headers={}), timeout_seconds=ANSWER_SECONDS)
    connection.close()
    return answer.status


async def half_wait(waiting: "list[asyncio.Task[int]]") -> bool:
    """Whether some are answered, and some are not."""
    return 0 < sum(task.done() for task in waiting) < len(waiting)
