"""The cache saves work and never tells an old story: one load for many readers, nothing stale after an invalidation."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.cache import Cache
from shop.errors import Overloaded
from shop.metrics import CACHE
from shop.redis import connect
from shop.settings import Settings
from tests.harness import PATIENCE
from tests.processes import copy_of


class Source:
    """What is cached: it counts its loads, and a load waits at the gate after it has read the value."""

    def __init__(self, value: bytes | None = b"first") -> None:
        self.value = value
        self.loads = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> bytes | None:
        self.loads += 1
        value = self.value
        self.begun.set()
        await self.gate.wait()
        return value


@pytest.fixture
def cache(redis: aioredis.Redis, settings: Settings) -> Cache:
    return Cache(redis, settings)


@pytest.fixture
def elsewhere(redis: aioredis.Redis, settings: Settings) -> Cache:
    """The cache of another process."""
    return Cache(redis, settings)


def lookups(result: str) -> float:
    return float(CACHE.labels(result=result)._value.get())


async def until_locked(redis: aioredis.Redis) -> None:
    deadline = time.monotonic() + 5
    while not await redis.keys("*:lock:*"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_value_is_loaded_once_and_then_kept(cache: Cache, elsewhere: Cache) -> None:
    source = Source()

    assert [await each.get_or_load("thing", source.load) for each in (cache, cache, elsewhere)] == [b"first"] * 3
    assert source.loads == 1


async def test_a_hundred_readers_at_once_are_one_load(cache: Cache) -> None:
    source = Source()
    source.gate.clear()
    readers = [asyncio.create_task(cache.get_or_load("thing", source.load)) for _ in range(100)]
    await source.begun.wait()
    source.gate.set()

    assert await asyncio.gather(*readers) == [b"first"] * 100
    assert source.loads == 1


async def test_readers_in_several_processes_are_one_load(redis: aioredis.Redis, settings: Settings) -> None:
    source, patient = Source(), copy_of(settings, **PATIENCE)  # else a machine that stands still lets them load alone
    source.gate.clear()
    client = connect(patient.redis_url, patient)
    processes = [Cache(client, patient) for _ in range(4)]
    readers = [asyncio.create_task(processes[n % 4].get_or_load("thing", source.load)) for n in range(100)]
    await source.begun.wait()
    source.gate.set()

    assert await asyncio.gather(*readers) == [b"first"] * 100
    assert source.loads == 1
    await client.aclose(close_connection_pool=True)


async def test_a_loader_that_hangs_holds_the_others_up_only_for_a_while(
    redis: aioredis.Redis, settings: Settings
) -> None:
    impatient = settings.model_copy(update={"cache_load_wait_seconds": 0.1})
    hanging, quick = Source(), Source(b"quick")
    hanging.gate.clear()
    stuck = asyncio.create_task(Cache(redis, impatient).get_or_load("thing", hanging.load))
    await until_locked(redis)

    assert await Cache(redis, impatient).get_or_load("thing", quick.load) == b"quick"

    hanging.gate.set()
    assert await stuck == b"first"


async def test_a_reader_who_leaves_does_not_cancel_the_load(cache: Cache) -> None:
    source = Source()
    source.gate.clear()
    first = asyncio.create_task(cache.get_or_load("thing", source.load))
    await source.begun.wait()
    others = [asyncio.create_task(cache.get_or_load("thing", source.load)) for _ in range(10)]
    first.cancel()
    await asyncio.wait([first])
    source.gate.set()

    assert await asyncio.gather(*others) == [b"first"] * 10
    assert source.loads == 1


async def test_a_failed_load_is_told_to_everyone_and_not_kept(cache: Cache, redis: aioredis.Redis) -> None:
    async def fail() -> bytes:
        raise LookupError("no")

    answers = await asyncio.gather(*(cache.get_or_load("thing", fail) for _ in range(5)), return_exceptions=True)

    assert {type(answer) for answer in answers} == {LookupError}
    assert await redis.keys("*:lock:*") == []
    assert await cache.get_or_load("thing", Source().load) == b"first"


async def test_an_absent_thing_is_remembered_too(cache: Cache, redis: aioredis.Redis, settings: Settings) -> None:
    source = Source(None)
    before = lookups("absent")

    assert [await cache.get_or_load("thing", source.load) for _ in range(3)] == [None] * 3
    assert source.loads == 1
    assert lookups("absent") == before + 2
    longest_ms = settings.cache_absent_ttl_seconds * (1 + settings.cache_jitter) * 1000
    assert 0 < await redis.pttl("shop:{cache:thing}:value") <= longest_ms


async def test_what_nobody_knows_is_asked_for_once_and_never_written(
    cache: Cache, redis: aioredis.Redis, settings: Settings
) -> None:
    """A client may name any key: that there is no such thing stays in the process, for a while and within a bound."""
    source, asked = Source(), 0

    async def exists() -> bool:
        nonlocal asked
        asked += 1
        return False

    for _ in range(3):
        answers = await asyncio.gather(*(cache.get_or_load("made up", source.load, exists=exists) for _ in range(20)))
        assert answers == [None] * 20

    assert (asked, source.loads) == (1, 0)
    assert await redis.keys("*") == []
    few = Cache(redis, settings.model_copy(update={"cache_absent_max": 3}))
    for n in range(10):
        await few.get_or_load(f"made up {n}", source.load, exists=exists)
    assert len(few._absent) == 3


async def test_what_was_absent_is_there_after_its_invalidation(cache: Cache, elsewhere: Cache) -> None:
    source, there = Source(), False

    async def exists() -> bool:
        return there

    assert await cache.get_or_load("thing", source.load, exists=exists) is None
    there = True
    await elsewhere.invalidate("thing")

    assert await cache.get_or_load("thing", source.load, exists=exists) == b"first"


async def test_only_so_many_unknown_things_are_asked_for_at_once(redis: aioredis.Redis, settings: Settings) -> None:
    bounds = {"cache_unknown_queue_max": 5}
    cache, source, gate = Cache(redis, settings.model_copy(update=bounds)), Source(), asyncio.Event()

    async def exists() -> bool:
        await gate.wait()
        return False

    reading = [asyncio.ensure_future(cache.get_or_load(f"made up {n}", source.load, exists=exists)) for n in range(9)]
    refused, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
    gate.set()
    answers = await asyncio.gather(*reading, return_exceptions=True)

    assert refused
    assert Counter(type(answer) for answer in answers) == {type(None): 5, Overloaded: 4}


async def test_empty_is_not_absent(cache: Cache) -> None:
    source = Source(b"")

    assert [await cache.get_or_load("thing", source.load) for _ in range(2)] == [b"", b""]
    assert source.loads == 1


async def test_an_invalidated_value_is_loaded_again_everywhere(cache: Cache, elsewhere: Cache) -> None:
    source = Source()
    for each in (cache, elsewhere):
        await each.get_or_load("thing", source.load)
    source.value = b"second"
    await elsewhere.invalidate("thing")

    assert [await each.get_or_load("thing", source.load) for each in (cache, elsewhere)] == [b"second"] * 2


async def test_a_load_that_began_before_an_invalidation_is_not_kept(cache: Cache, elsewhere: Cache) -> None:
    """Load, commit, invalidate, and only then the write of the old value (F37)."""
    source = Source()
    source.gate.clear()
    slow = asyncio.create_task(cache.get_or_load("thing", source.load))
    await source.begun.wait()
    source.value = b"second"
    await elsewhere.invalidate("thing")
    source.gate.set()
    await slow

    assert await cache.get_or_load("thing", source.load) == b"second"
    assert await elsewhere.get_or_load("thing", source.load) == b"second"


async def test_a_reader_after_an_invalidation_does_not_join_the_load_before_it(cache: Cache, elsewhere: Cache) -> None:
    """Not even while that load is still under way in the same process, nor does the reader wait for it."""
    old, new = Source(), Source(b"second")
    old.gate.clear()
    slow = asyncio.create_task(cache.get_or_load("thing", old.load))
    await old.begun.wait()
    await elsewhere.invalidate("thing")
    started = time.monotonic()

    assert await cache.get_or_load("thing", new.load) == b"second"
    assert time.monotonic() - started < 0.5

    old.gate.set()
    assert await slow == b"first"
    assert await cache.get_or_load("thing", new.load) == b"second"


async def test_a_forgotten_generation_does_not_bring_an_old_value_back(cache: Cache, redis: aioredis.Redis) -> None:
    """Redis may evict what it likes: without its generation a value counts for nothing."""
    source = Source()
    source.gate.clear()
    slow = asyncio.create_task(cache.get_or_load("thing", source.load))
    await source.begun.wait()
    source.value = b"second"
    await cache.invalidate("thing")
    await redis.delete("shop:{cache:thing}:generation")
    source.gate.set()
    await slow
    assert await redis.exists("shop:{cache:thing}:value")

    assert await cache.get_or_load("thing", source.load) == b"second"


async def test_parts_are_kept_apart_and_invalidated_together(cache: Cache) -> None:
    twenty, fifty = Source(b"20"), Source(b"50")
    for _ in range(2):
        assert await cache.get_or_load("list", twenty.load, part="20") == b"20"
        assert await cache.get_or_load("list", fifty.load, part="50") == b"50"
    assert (twenty.loads, fifty.loads) == (1, 1)

    await cache.invalidate("list")

    await cache.get_or_load("list", twenty.load, part="20")
    await cache.get_or_load("list", fifty.load, part="50")
    assert (twenty.loads, fifty.loads) == (2, 2)


async def test_times_to_live_differ_within_the_jitter(cache: Cache, redis: aioredis.Redis, settings: Settings) -> None:
    """So that what was loaded together is not lost together."""
    started = time.monotonic()
    for n in range(40):
        await cache.get_or_load(f"thing:{n}", Source().load)

    lives = [await redis.pttl(f"shop:{{cache:thing:{n}}}:value") / 1000 for n in range(40)]

    took = time.monotonic() - started
    middle, spread = settings.cache_ttl_seconds, settings.cache_ttl_seconds * settings.cache_jitter
    assert all(middle - spread - took - 0.001 <= life <= middle + spread for life in lives)
    assert max(lives) - min(lives) > spread / 2


async def test_every_key_of_the_cache_expires_and_lies_in_one_slot(cache: Cache, redis: aioredis.Redis) -> None:
    await cache.get_or_load("thing", Source().load)
    await cache.get_or_load("list", Source(None).load, part="20")
    await cache.invalidate("another")

    keys = await redis.keys("*")

    assert sorted(keys) == [
        b"shop:{cache:another}:generation",
        b"shop:{cache:list}:generation",
        b"shop:{cache:list}:value:20",
        b"shop:{cache:thing}:generation",
        b"shop:{cache:thing}:value",
    ]
    assert all([await redis.pttl(key) > 0 for key in keys])
    assert await redis.pttl(keys[0].split(b"}")[0] + b"}:generation") > 0


async def test_a_generation_outlives_its_value(cache: Cache, redis: aioredis.Redis) -> None:
    await cache.get_or_load("thing", Source().load)

    value_ms, generation_ms = [await redis.pttl(f"shop:{{cache:thing}}:{name}") for name in ("value", "generation")]

    assert generation_ms > value_ms


async def test_a_value_of_another_type_is_replaced(cache: Cache, redis: aioredis.Redis) -> None:
    await redis.lpush("shop:{cache:thing}:value", "another type")  # type: ignore[misc]
    source = Source()

    assert [await cache.get_or_load("thing", source.load) for _ in range(2)] == [b"first"] * 2
    assert source.loads == 1


async def test_without_redis_everything_is_loaded_and_counted(settings: Settings, tmp_path: Path) -> None:
    """And a crowd is still one load at a time."""
    cache = Cache(connect(f"unix://{tmp_path}/nothing.sock", settings), settings)
    source, before = Source(), lookups("error")

    assert [await cache.get_or_load("thing", source.load) for _ in range(3)] == [b"first"] * 3
    assert source.loads == 3
    assert lookups("error") == before + 3
    await asyncio.gather(*(cache.get_or_load("thing", source.load) for _ in range(100)))
    assert source.loads == 4
    source.value = b"second"
    await cache.invalidate("thing")
    assert await cache.get_or_load("thing", source.load) == b"second"


async def test_a_redis_that_hangs_is_left_alone_for_a_while(settings: Settings, tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "hangs.sock")
    short = settings.model_copy(update={"redis_timeout_seconds": 0.1, "side_redis_backoff_seconds": 60.0})
    cache = Cache(connect(f"unix://{tmp_path}/hangs.sock", short), short)
    started = time.monotonic()

    for _ in range(50):
        assert await cache.get_or_load("thing", Source().load) == b"first"

    assert time.monotonic() - started < 1.0
    server.close()


async def test_a_redis_that_fails_in_mid_load_does_not_lose_the_value(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    source.gate.clear()
    reading = asyncio.create_task(cache.get_or_load("thing", source.load))
    await source.begun.wait()

    async def refuse(*_: Any, **__: Any) -> None:
        raise aioredis.ConnectionError("gone")

    monkeypatch.setattr("shop.cache_store.call_many", refuse)
    source.gate.set()

    assert await reading == b"first"
    assert await cache.get_or_load("thing", source.load) == b"first"
