"""Reads, commits, invalidations, lost news, late write-backs and evictions in any order, over cache and page memory.

No reader sees a value older than the last invalidation that it could know of, and none sees one that never was. The
value is its own version: the number of commits. `CACHE_ORDERS=2000` tries more orders than a run of all tests does.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio as aioredis
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shop.cache import Cache
from shop.public_pages import memory as page_memory
from shop.public_pages.memory import LIVES_SECONDS, PATIENCE_SECONDS, Key, PageMemory
from shop.public_pages.page import Page, Rendered
from shop.redis import connect
from shop.settings import Settings
from tests.processes import copy_of

EXAMPLES = int(os.environ.get("CACHE_ORDERS", "25"))
PROCESSES = 2
KEY, NAME = Key("thing", 1), "thing"
IDLE_POLLS, POLL_SECONDS = 3, 0.001
END_SECONDS = 20.0

# What may happen, with the number of the process or of the load that it happens to.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("read", "read", "page", "page", "see", "see", "answer", "answer", "commit", "invalidate",
                         "invalidate", "evict", "wait")),
        st.integers(0, 2),
    ),
    min_size=4,
    max_size=30,
)  # fmt: skip
EVICTED = ("*:generation", "*:value", "*:lock:*")
# A reader joins a load that began before the invalidation, and a page comes from such a load.
JOINED = [("read", 1), ("see", 0), ("invalidate", 0), ("read", 1), ("answer", 0)]
JOINED_PAGE = [("page", 0), ("see", 0), ("invalidate", 0), ("page", 0), ("answer", 0), ("page", 0)]


@dataclass
class Clock:
    """The clock of the page memories: it moves with each step, and by more with a wait."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Load:
    """A load under way: it sees the row when it is let, and answers when it is let again."""

    sees: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Process:
    """The cache and the page memory of a process, and the version of the last invalidation that it made itself."""

    cache: Cache
    memory: PageMemory
    invalidated: int = 1


class World:
    """A row that everybody reads through the caches of several processes."""

    def __init__(self, client: aioredis.Redis, settings: Settings, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self.version = 1
        self._invalidated = [(0.0, 1)]
        self._loads: list[Load] = []
        self._readers: list[asyncio.Task[None]] = []
        self._processes = [self._process(settings) for _ in range(PROCESSES)]

    def _process(self, settings: Settings) -> Process:
        cache = Cache(self._client, settings)

        async def read(_: Key) -> Page | None:
            asked_at = self._clock.now
            value = await cache.get_or_load(NAME, self._load)
            assert value is not None
            return Page(
                lambda *_: Rendered(value), cache_control=b"no-cache", asked_at=asked_at, clock_ahead=timedelta()
            )

        memory = PageMemory(read, bytes_max=10**6, waiters_max=1_000, stale_seconds_max=60)
        cache.invalidated = lambda _: memory.forget(KEY.kind)
        return Process(cache, memory)

    async def _load(self) -> bytes | None:
        self._loads.append(load := Load())
        await load.sees.wait()
        seen = self.version
        await load.answers.wait()
        return b"%d" % seen

    def invalidated_before(self, at: float) -> int:
        """The version of the last invalidation that was done before this time."""
        return max(version for when, version in self._invalidated if when < at)

    async def step(self, name: str, number: int) -> None:
        """Let one thing happen, and what follows from it."""
        self._clock.now += 0.001
        process = self._processes[number % PROCESSES]
        match name:
            case "read":
                self._begin(self._read(process))
            case "page":
                self._begin(self._show(process))
            case "see" | "answer":
                self._let(name, number)
            case "commit":  # whoever committed it died before the invalidation: the news is lost
                self.version += 1
            case "invalidate":
                await self._change(process)
            case "wait":
                self._clock.now += (number + 1) * LIVES_SECONDS / 2
            case _:
                await self._evict(EVICTED[number])
        await self._settle()
        for reader in self._readers:
            if reader.done():
                reader.result()

    async def _settle(self) -> None:
        """Return when nobody has anything to do but wait for what this test lets happen, or for a lock."""
        idle = 0
        while idle < IDLE_POLLS:
            await asyncio.sleep(POLL_SECONDS)
            idle = idle + 1 if all(each.cache._store._groups.idle for each in self._processes) else 0

    def _begin(self, reading: Coroutine[Any, Any, None]) -> None:
        self._readers.append(asyncio.create_task(reading))

    def _let(self, name: str, number: int) -> None:
        waiting = [load for load in self._loads if not (load.sees if name == "see" else load.answers).is_set()]
        if waiting:
            load = waiting[number % len(waiting)]
            (load.sees if name == "see" else load.answers).set()

    async def _change(self, process: Process) -> None:
        self.version += 1
        version = self.version
        await process.cache.invalidate(NAME)
        self._invalidated.append((self._clock.now, max(version, self._invalidated[-1][1])))
        process.invalidated = version

    async def _evict(self, pattern: str) -> None:
        if keys := await self._client.keys(f"shop:{{cache:{NAME}}}{pattern}"):
            await self._client.delete(*keys)

    async def _read(self, process: Process) -> None:
        oldest = self._invalidated[-1][1]
        value = await process.cache.get_or_load(NAME, self._load)
        assert value is not None
        assert oldest <= int(value) <= self.version, f"read {value!r} of {self.version} after {oldest}"

    async def _show(self, process: Process) -> None:
        oldest, now = process.invalidated, self._clock.now
        found = process.memory.find(KEY)
        if isinstance(found, Page):
            reading = process.memory._reads.get(KEY)
            slow = reading is not None and now - reading.begun_at >= PATIENCE_SECONDS
            assert slow or now - found.asked_at < LIVES_SECONDS, "an old page is shown"
        page = found if isinstance(found, Page) else await found
        assert page is not None
        known = max(oldest, self.invalidated_before(page.asked_at))
        assert known <= int(page.body) <= self.version, f"shown {page.body!r} of {self.version} after {known}"

    async def end(self) -> None:
        """Let everything end; then everybody sees what is there."""
        while not all(reader.done() for reader in self._readers):
            for load in self._loads:
                load.sees.set()
                load.answers.set()
            await self._settle()
        await asyncio.gather(*self._readers)
        await self._change(self._processes[0])
        self._clock.now += LIVES_SECONDS
        last = [asyncio.create_task(each) for process in self._processes for each in (self._read(process),
                                                                                     self._show(process))]  # fmt: skip
        while not all(reader.done() for reader in last):
            for load in self._loads:
                load.sees.set()
                load.answers.set()
            await self._settle()
        await asyncio.gather(*last)


@pytest.fixture
def run(clean_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[tuple[str, int]]], None]]:
    """Plays one order of steps in a world of its own."""
    settings = copy_of(clean_settings, cache_load_wait_seconds=0.02)
    loop = asyncio.new_event_loop()

    async def play(steps: list[tuple[str, int]]) -> None:
        clock = Clock()
        monkeypatch.setattr(page_memory, "time", clock)
        client = connect(settings.redis_url, settings)
        await client.flushdb()
        world = World(client, settings, clock)
        try:
            async with asyncio.timeout(END_SECONDS):
                for name, number in steps:
                    await world.step(name, number)
                await world.end()
        finally:
            await client.aclose(close_connection_pool=True)

    yield lambda steps: loop.run_until_complete(play(steps))
    loop.close()


@hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
@example(steps=JOINED)
@example(steps=JOINED_PAGE)
def test_nobody_sees_what_was_before_an_invalidation_that_they_could_know_of(
    run: Callable[[list[tuple[str, int]]], None], steps: list[tuple[str, int]]
) -> None:
    run(steps)
