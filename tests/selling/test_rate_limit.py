"""Nobody asks more often than they may, whichever process they ask; and nobody is shut out for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.errors import RateLimited
from shop.metrics import LIMITER_ERRORS
from shop.rate_limit import RateLimiter, limit
from shop.redis import Script, connect
from shop.settings import Settings
from tests.harness import slowdown

# So slow that nothing is given back while a test runs.
HOURLY = 1 / 3600


def limiter_of(redis: aioredis.Redis, **changes: Any) -> RateLimiter:
    numbers: dict[str, Any] = {"name": "test", "rate_per_second": HOURLY, "burst": 5, "users_max": 1000, "timeout": 5.0}
    return RateLimiter(redis, **(numbers | changes))


async def admitted(*answers: Awaitable[float]) -> int:
    return (await asyncio.gather(*answers)).count(0.0)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def test_a_burst_is_admitted_and_the_next_request_is_not(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis, burst=3)

    waits = [await limiter.wait_seconds("ada") for _ in range(4)]

    assert waits[:3] == [0.0, 0.0, 0.0]
    assert waits[3] == pytest.approx(3600, abs=2)


async def test_a_thousand_requests_in_one_instant_admit_exactly_the_burst(redis: aioredis.Redis) -> None:
    """In one process, and spread over a hundred processes that know nothing of each other (F31)."""
    one = limiter_of(redis, burst=7)
    assert await admitted(*(one.wait_seconds("ada") for _ in range(1000))) == 7

    many = [limiter_of(redis, burst=7) for _ in range(100)]
    assert await admitted(*(many[n % 100].wait_seconds("bob") for n in range(1000))) == 7


async def test_a_thousand_questions_in_one_script_admit_exactly_the_burst(redis: aioredis.Redis) -> None:
    """The same caller many times in one batch, all at one reading of the clock."""
    limiter = limiter_of(redis, burst=7)
    key = limiter._redis_key("ada")

    waits = [wait for _ in range(4) for wait in await limiter._ask_shared([key] * 250)]

    assert waits.count(0) == 7
    assert await redis.pttl(key) > 0


async def test_callers_do_not_share_a_bucket(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis, burst=1)

    assert await admitted(*(limiter.wait_seconds(f"user-{n}") for n in range(500))) == 500


async def test_limits_with_different_names_do_not_share_a_bucket(redis: aioredis.Redis) -> None:
    for name in ("buy", "look"):
        assert await limiter_of(redis, name=name, burst=1).wait_seconds("ada") == 0.0


async def test_what_was_used_comes_back_at_the_rate(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis, rate_per_second=50, burst=2)
    started = time.monotonic()
    count = 0

    async def ten_admitted() -> bool:
        nonlocal count
        count += await limiter.wait_seconds("ada") == 0.0
        return count == 10

    await until(ten_admitted)

    assert time.monotonic() - started >= (10 - 2) / 50 * 0.95


async def test_a_key_that_was_left_without_an_expiry_heals_itself(redis: aioredis.Redis) -> None:
    """A crash between two commands once banned people for ever (F27)."""
    limiter = limiter_of(redis, rate_per_second=1000)
    key = limiter._redis_key("ada")
    now, _ = await redis.time()
    for left_behind in (str((now - 9) * 1_000_000), str(now * 1_000_000 + 1_000), "not a number", ""):
        await redis.set(key, left_behind)

        async def is_admitted() -> bool:
            return await limiter.wait_seconds("ada") == 0.0

        await until(is_admitted)
        # -2: the bucket was full again before this question came.
        assert await redis.pttl(key) in {-2, *range(11)}


async def test_a_key_of_another_type_does_not_shut_anybody_out(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis)
    await redis.lpush(limiter._redis_key("ada"), "another type")  # type: ignore[misc]

    assert await limiter.wait_seconds("ada") == 0.0
    assert await redis.type(limiter._redis_key("ada")) == b"string"


async def test_a_refused_caller_is_refused_by_the_process_itself(redis: aioredis.Redis) -> None:
    """Hammering does not reach Redis, even when another process used the bucket up."""
    here, elsewhere = limiter_of(redis, burst=3), limiter_of(redis, burst=3)
    for _ in range(3):
        await elsewhere.wait_seconds("ada")
    first = await here.wait_seconds("ada")
    await redis.flushdb()

    assert first > 0
    assert await here.wait_seconds("ada") == pytest.approx(first, abs=1)


async def test_the_process_remembers_a_bounded_number_of_callers(redis: aioredis.Redis) -> None:
    """A forgotten one gains nothing: the shared bucket knows them."""
    limiter = limiter_of(redis, users_max=10, burst=1)
    for n in range(50):
        await limiter.wait_seconds(f"user-{n}")

    assert len(limiter._arrivals) == 10
    assert await limiter.wait_seconds("user-0") > 0


async def test_what_a_client_wrote_never_becomes_part_of_a_key(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis)
    hostile = ["a}b", "{a}", "a b", "a\r\nSET x 1\r\n", "ä", "x" * 10_000, "", "a*", "\udcff"]
    for key in [*hostile, "ada-1_x.y:z"]:
        assert await limiter.wait_seconds(key) == 0.0

    keys = [key.decode("ascii") for key in await redis.keys("*")]

    assert "shop:{rate}:test:ada-1_x.y:z" in keys
    assert len(keys) == len(hostile) + 1
    for key in keys:
        assert len(key) < 100
        assert not any(raw in key for raw in hostile if raw)


async def test_without_redis_the_bucket_of_the_process_decides(settings: Settings, tmp_path: Path) -> None:
    nowhere = connect(f"unix://{tmp_path}/nothing.sock", settings)
    limiter = limiter_of(nowhere, burst=4)
    before = LIMITER_ERRORS._value.get()

    assert await admitted(*(limiter.wait_seconds("ada") for _ in range(50))) == 4
    assert LIMITER_ERRORS._value.get() == before + 4


async def test_a_redis_that_hangs_costs_at_most_the_timeout(settings: Settings, tmp_path: Path) -> None:
    """It takes connections and says nothing; after one try it is not asked for a while."""
    server = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "hangs.sock")
    limiter = limiter_of(connect(f"unix://{tmp_path}/hangs.sock", settings), timeout=0.1, backoff_seconds=60)
    started = time.monotonic()
    assert await admitted(*(limiter.wait_seconds(f"user-{n}") for n in range(1000))) == 1000
    for n in range(100):
        assert await limiter.wait_seconds(f"late-{n}") == 0.0

    assert time.monotonic() - started < 1.0 * slowdown()
    server.close()


async def test_scripts_that_are_not_loaded_do_not_stop_anybody(
    redis: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the limiter works again once the controller has loaded them."""
    limiter = limiter_of(redis, backoff_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr("shop.redis.script", lambda name: Script(name, source="", sha="0" * 40))
        assert await limiter.wait_seconds("ada") == 0.0
        assert await redis.keys("*") == []

    assert await limiter.wait_seconds("ada") == 0.0
    assert await redis.keys("*") == [b"shop:{rate}:test:ada"]


async def test_a_caller_who_leaves_does_not_disturb_the_others(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis)
    tasks = [asyncio.create_task(limiter.wait_seconds(f"user-{n}")) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert answers[1::2] == [0.0] * 25


async def test_a_refusal_says_when_to_come_back_and_what_the_rule_is(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis, name="buy", rate_per_second=5, burst=1)
    await limit(limiter, "ada")

    with pytest.raises(RateLimited) as refusal:
        await limit(limiter, "ada")

    headers = refusal.value.headers
    assert 1 <= int(headers["Retry-After"]) <= 2
    assert headers["RateLimit"] == f'"buy";r=0;t={headers["Retry-After"]}'
    assert headers["RateLimit-Policy"] == '"buy";q=5;w=1'


@pytest.mark.parametrize(
    ("rate_per_second", "quota", "window_seconds"),
    [(5, 5, 1), (2.5, 2, 1), (1, 1, 1), (10 / 60, 10, 60), (1 / 60, 1, 60), (HOURLY, 1, 3600)],
)
def test_the_policy_is_told_in_whole_requests(
    redis: aioredis.Redis, rate_per_second: float, quota: int, window_seconds: int
) -> None:
    limiter = limiter_of(redis, rate_per_second=rate_per_second)

    assert (limiter.quota, limiter.window_seconds) == (quota, window_seconds)


async def test_an_idle_caller_is_admitted_at_once_and_charged_soon_after(redis: aioredis.Redis) -> None:
    """All processes know it; whoever is not idle is asked about."""
    here, elsewhere = limiter_of(redis, burst=2), limiter_of(redis, burst=2)

    assert here.admits_idle("ada")
    assert not here.admits_idle("ada")
    await until_charged(redis, here, "ada")

    assert await here.wait_seconds("ada") == 0.0
    assert await elsewhere.wait_seconds("ada") > 0


async def test_who_goes_from_process_to_process_exceeds_the_burst_by_one_for_each(redis: aioredis.Redis) -> None:
    """And every process refuses them until the shared bucket has made up for it."""
    processes = [limiter_of(redis, burst=5, rate_per_second=10) for _ in range(8)]
    began, admitted_count = time.monotonic(), 0
    while time.monotonic() - began < 1.5:
        admitted_count += sum(process.admits_idle("ada") for process in processes)
        await asyncio.sleep(0.11)
    took = time.monotonic() - began

    # One more for what is admitted between the last charge and its news.
    assert admitted_count <= 5 + 10 * took + len(processes) + 1
    assert admitted_count >= len(processes)


async def test_what_was_taken_back_is_not_charged(redis: aioredis.Redis) -> None:
    limiter = limiter_of(redis, burst=1)
    assert limiter.admits_idle("bob")
    assert limiter.admits_idle("ada")
    limiter.refund("ada")
    await until_charged(redis, limiter, "bob")

    assert await limiter.wait_seconds("ada") == 0.0


async def test_idle_callers_are_admitted_while_redis_is_away_and_charged_by_the_process(
    settings: Settings, tmp_path: Path
) -> None:
    limiter = limiter_of(connect(f"unix://{tmp_path}/nothing.sock", settings), burst=2)
    before = LIMITER_ERRORS._value.get()

    assert [limiter.admits_idle("ada") for _ in range(3)] == [True, False, False]
    assert [await limiter.wait_seconds("ada") > 0 for _ in range(2)] == [False, True]
    await until(lambda: asyncio.sleep(0, LIMITER_ERRORS._value.get() == before + 2))


async def until_charged(redis: aioredis.Redis, limiter: RateLimiter, key: str) -> None:
    """Return when the shared bucket knows of a request of this caller."""

    async def charged() -> bool:
        return bool(await redis.exists(limiter._redis_key(key)))

    await until(charged)
