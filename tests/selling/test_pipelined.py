"""Script calls over one kept connection: each gets its own answer, and whoever gets none is told what is known."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.pipelined import PipelinedConnection
from shop.redis import NotSent, OutcomeUnknown, ScriptsNotLoaded, connect
from shop.settings import Settings
from tests.harness import wait_until
from tests.lua.ledgers import command

HOUR_US = 3_600_000_000
TIMEOUT_SECONDS = 5.0


@pytest.fixture
async def kept(redis: aioredis.Redis) -> AsyncIterator[PipelinedConnection]:
    connection = PipelinedConnection(redis)
    yield connection
    connection.close()


async def ask(kept: PipelinedConnection, *keys: str, timeout: float = TIMEOUT_SECONDS) -> Any:
    """How long each caller waits whose burst is two requests."""
    return await kept.call_script("rate_limit", keys, [HOUR_US, 2, ""], timeout=timeout)


async def clients(redis: aioredis.Redis) -> set[str]:
    """The ids of the connections of the server, but for the one that asks."""
    own = await redis.client_id()
    return {client["id"] for client in await redis.client_list()} - {str(own)}


async def test_calls_at_once_are_answered_each_for_itself_over_one_connection(
    redis: aioredis.Redis, kept: PipelinedConnection
) -> None:
    before = await clients(redis)

    answers = await asyncio.gather(*(ask(kept, *(f"caller{n}" for n in range(count))) for count in range(1, 200)))

    assert [len(answer) for answer in answers] == list(range(1, 200))
    # caller0 was in all of them: the first two were admitted.
    assert [answer[0] == 0 for answer in answers] == [True, True] + [False] * 197
    assert len(await clients(redis) - before) == 1


async def test_an_error_is_of_its_own_call_alone(redis: aioredis.Redis, kept: PipelinedConnection) -> None:
    """A key of another type, and a Redis that has forgotten the scripts: nothing was executed."""
    await redis.set("text", "no hash")
    arguments: list[str | bytes | int] = [1, 10**15, "", 0, "", b"x" * 16, "ada", 1]
    wrong = kept.call_script("reserve", ["text"] * 5, arguments, timeout=TIMEOUT_SECONDS)
    answers = await asyncio.gather(ask(kept, "ada"), wrong, ask(kept, "ada"), ask(kept, "ada"), return_exceptions=True)
    assert type(answers[1]) is NotSent
    assert [answer == [0] for answer in (answers[0], *answers[2:])] == [True, True, False]

    await redis.script_flush()
    with pytest.raises(ScriptsNotLoaded):
        await ask(kept, "ada")


async def test_a_caller_who_leaves_does_not_disturb_the_others(kept: PipelinedConnection) -> None:
    assert await ask(kept, "caller") == [0]
    tasks = [asyncio.create_task(ask(kept, *(f"caller{n}-{i}" for i in range(n)))) for n in range(1, 51)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[1::2] == [[0] * n for n in range(2, 51, 2)]
    assert await ask(kept, "caller", "caller") != [0, 0]


async def test_a_connection_that_was_lost_while_idle_is_replaced_by_the_next_call(
    redis: aioredis.Redis, kept: PipelinedConnection
) -> None:
    before = await clients(redis)
    assert await ask(kept, "ada") == [0]
    (its_own,) = await clients(redis) - before
    await command(redis, "CLIENT", "KILL", "ID", its_own)

    async def lost() -> bool:
        return kept._transport is None

    await wait_until(lost, reason="the loss is noticed")

    assert await ask(kept, "ada") == [0]


async def test_a_connection_that_is_lost_before_its_first_call_is_replaced(
    kept: PipelinedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent over it; the next one's answers belong to those who asked over that one."""
    connected, lost = kept._connected, False

    async def lose_the_first(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal lost
        await connected(loop)
        if not lost:
            lost = True
            kept._lose("gone")

    monkeypatch.setattr(kept, "_connected", lose_the_first)

    assert await ask(kept, "ada", "bob") == [0, 0]
    assert await ask(kept, "carl") == [0]


async def test_what_a_lost_connection_was_asked_is_unknown_and_the_next_call_is_answered(
    redis: aioredis.Redis, kept: PipelinedConnection
) -> None:
    before = await clients(redis)
    assert await ask(kept, "ada") == [0]
    (its_own,) = await clients(redis) - before
    await command(redis, "CLIENT", "PAUSE", 60_000, "WRITE")
    asked = [asyncio.create_task(ask(kept, "ada")) for _ in range(3)]

    async def all_asked() -> bool:
        return len(kept._unanswered) == len(asked)

    await wait_until(all_asked, reason="the calls are under way")
    await command(redis, "CLIENT", "KILL", "ID", its_own)

    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 3
    await command(redis, "CLIENT", "UNPAUSE")
    assert await ask(kept, "bob") == [0]


async def test_a_call_without_an_answer_in_time_is_unknown_and_takes_the_connection_along(
    redis: aioredis.Redis, kept: PipelinedConnection
) -> None:
    """Its own time counts, not that of a more patient one which stands behind it."""
    assert await ask(kept, "ada") == [0]
    await command(redis, "CLIENT", "PAUSE", 60_000, "WRITE")
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(ask(kept, "ada", timeout=0.2), ask(kept, "ada", timeout=30), return_exceptions=True)
    took = asyncio.get_running_loop().time() - began
    await command(redis, "CLIENT", "UNPAUSE")

    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 2
    assert 0.2 <= took < 10
    assert await ask(kept, "bob") == [0]


async def test_without_a_server_nothing_was_sent(settings: Settings, tmp_path: Path) -> None:
    """All who wait for the connection are told, and the next one tries again."""
    kept = PipelinedConnection(connect(f"unix://{tmp_path}/nothing.sock", settings))
    for _ in range(2):
        answers = await asyncio.gather(*(ask(kept, "ada") for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [NotSent] * 3
