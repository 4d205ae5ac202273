"""Cache-aside in Redis: what is read often and changed seldom, never stale after an invalidation.

Each key has a generation, a random word. A value carries the generation that was read before its load began, and
readers take it only while that is still the key's generation. `invalidate` sets a new one, so a load that was under way
may write whatever it likes: nobody will take it. A generation that Redis forgets is replaced by a new random one.

What a client makes up is never written: a key of which Redis knows nothing is asked for in the database first, and that
there is no such thing stays in the process.
"""

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import redis.asyncio as aioredis
import structlog
from fastapi import Depends, Request

from shop import metrics
from shop.app_keys import AppKey
from shop.breaker import Breaker, CircuitOpen
from shop.errors import Overloaded
from shop.redis import CONNECTION_ERRORS, REDIS_ERRORS
from shop.settings import Settings

Load = Callable[[], Awaitable[bytes | None]]
Exists = Callable[[], Awaitable[bool]]

GENERATION_BYTES = 12
PRESENT, ABSENT = b"1", b"0"
EXISTENCE = b"?"  # instead of a generation
POLL_SECONDS = 0.02

_HIT, _MISS, _ABSENT, _ERROR = (metrics.CACHE.labels(result=result) for result in ("hit", "miss", "absent", "error"))
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Names:
    """Where one entry is kept. The tag holds the names of a key together on one node of a cluster."""

    value: str
    generation: str

    def lock(self, generation: bytes) -> str:
        """One loader for each generation: a load begun before an invalidation must not hold up the one after it."""
        return f"{self.value}:lock:{generation.hex()}"


@dataclass(frozen=True)
class _Lookup:
    """The generation of the key, and whether a value of it is there; None is the value of a thing that is absent.

    The generation is empty if the key has none.
    """

    generation: bytes
    found: bool
    value: bytes | None


class Cache:
    """Values by key. Keys are written by the shop, never by a client.

    At most `cache_absent_max` things that are absent are remembered; `cache_unknown_loads_max` unknown ones are asked
    for at the same time, and `cache_unknown_queue_max` may wait for that.
    """

    def __init__(self, redis: aioredis.Redis, settings: Settings) -> None:
        # Told of each invalidation by this process when it is done.
        self.invalidated: Callable[[Sequence[str]], None] = lambda _: None
        self._redis = redis
        self._ttl_seconds = settings.cache_ttl_seconds
        self._absent_ttl_seconds = settings.cache_absent_ttl_seconds
        self._jitter = settings.cache_jitter
        self._wait_seconds = settings.cache_load_wait_seconds
        self._breaker = Breaker(failures_max=1, cooldown_seconds=settings.side_redis_backoff_seconds)
        self._loads: dict[tuple[str, bytes], asyncio.Task[bytes | None]] = {}
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._absent_max = settings.cache_absent_max
        self._unknown_gate = asyncio.Semaphore(settings.cache_unknown_loads_max)
        self._unknown_waiting = 0
        self._unknown_waiting_max = settings.cache_unknown_queue_max

    async def get_or_load(self, key: str, load: Load, *, part: str = "", exists: Exists | None = None) -> bytes | None:
        """The value of this key, or None for a thing that does not exist; both are kept for a while.

        `part` names one of several values of the key, which are invalidated together. `load` is called when there is
        no value; many callers share one call, so it must not use anything that belongs to one of them, such as the
        session of a request. What it raises, they all get. Without Redis every value is loaded.

        A client may name any key, so whoever takes one from a client says with `exists` whether there is such a thing;
        it is asked where Redis has never heard of the key. Raises Overloaded when too many ask for unknown ones.
        """
        names = _names(key, part)
        try:
            lookup = await self._lookup(names, starting=exists is None)
        except (*REDIS_ERRORS, CircuitOpen):
            _ERROR.inc()
            return await self._share((names.value, b""), load)
        if not lookup.generation and exists is not None:
            if await self._is_absent(names.value, exists):
                _ABSENT.inc()
                return None
            return await self.get_or_load(key, load, part=part)
        if lookup.found:
            (_HIT if lookup.value is not None else _ABSENT).inc()
            return lookup.value
        _MISS.inc()
        # Shared by generation: who comes after an invalidation does not join a load that began before it.
        load_once = partial(self._load_once, names, lookup.generation, load)
        return await self._share((names.value, lookup.generation), load_once)

    async def invalidate(self, *keys: str) -> None:
        """Forget these keys; call it after the commit of what changed them. It never raises.

        If Redis cannot be reached, old values may be seen until their time to live is over.
        """
        for key in keys:
            value = _names(key, "").value
            for shared in [each for each in self._loads if each[0].startswith(value) and not each[1]]:
                del self._loads[shared]
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.set(_names(key, "").generation, _new_generation(), px=self._generation_ms(0))
                await pipeline.execute()
        except REDIS_ERRORS as error:
            _ERROR.inc()
            _log.warning("cache_not_invalidated", keys=keys, error=repr(error))
        self.invalidated(keys)

    async def _is_absent(self, name: str, exists: Exists) -> bool:
        """Whether there is no such thing, by the process's memory or by asking once for all who ask now.

        The memory ends before a generation does that an invalidation has set meanwhile, and with one nobody asks here.
        """
        if self._absent.get(name, 0.0) > time.monotonic():
            return True
        return await self._share((name, EXISTENCE), partial(self._ask, name, exists)) is None

    async def _ask(self, name: str, exists: Exists) -> bytes | None:
        if self._unknown_waiting >= self._unknown_waiting_max:
            raise Overloaded("Too many ask for what nobody knows here")
        self._unknown_waiting += 1
        try:
            async with self._unknown_gate:
                until = time.monotonic() + self._absent_ttl_seconds
                if await exists():
                    return b""
        finally:
            self._unknown_waiting -= 1
        self._absent[name] = until
        self._absent.move_to_end(name)
        if len(self._absent) > self._absent_max:
            self._absent.popitem(last=False)
        return None

    async def _lookup(self, names: _Names, *, starting: bool = True) -> _Lookup:
        with self._breaker.asked(*CONNECTION_ERRORS):
            generation, stored = await self._redis.mget(names.generation, names.value)
            if generation is None:
                generation = await self._start_generation(names) if starting else b""
        if not generation or stored is None or not stored.startswith(generation):
            return _Lookup(generation, found=False, value=None)
        mark, value = stored[GENERATION_BYTES : GENERATION_BYTES + 1], stored[GENERATION_BYTES + 1 :]
        return _Lookup(generation, found=True, value=value if mark == PRESENT else None)

    async def _start_generation(self, names: _Names) -> bytes:
        new = _new_generation()
        earlier: bytes | None = await self._redis.set(
            names.generation, new, nx=True, get=True, px=self._generation_ms(0)
        )
        return earlier or new

    async def _share(self, which: tuple[str, bytes], load: Load) -> bytes | None:
        """The outcome of the load under way, or of a new one. It outlives a caller who leaves."""
        task = self._loads.get(which)
        if task is None:
            task = asyncio.create_task(_run(load))
            self._loads[which] = task
            task.add_done_callback(partial(self._finished, which))
        return await asyncio.shield(task)

    def _finished(self, which: tuple[str, bytes], task: asyncio.Task[bytes | None]) -> None:
        if self._loads.get(which) is task:
            del self._loads[which]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has left

    async def _load_once(self, names: _Names, generation: bytes, load: Load) -> bytes | None:
        """Load and keep the value, unless another process is at it: then wait for its value, but not for ever."""
        deadline = time.monotonic() + self._wait_seconds
        try:
            while time.monotonic() < deadline:
                locked = await self._lock(names, generation)
                if not locked:
                    await asyncio.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
                # With the lock, too: another process may have stored the value between our look-up and our lock.
                lookup = await self._lookup(names)
                if lookup.found:
                    if locked:
                        await self._unlock(names, generation)
                    return lookup.value
                if locked and lookup.generation == generation:
                    break
                generation = lookup.generation
        except (*REDIS_ERRORS, CircuitOpen):
            _ERROR.inc()
            return await load()
        try:
            value = await load()
        except Exception:
            await self._unlock(names, generation)
            raise
        await self._store(names, generation, value)
        return value

    async def _lock(self, names: _Names, generation: bytes) -> bool:
        return bool(await self._redis.set(names.lock(generation), b"", nx=True, px=_milliseconds(self._wait_seconds)))

    async def _unlock(self, names: _Names, generation: bytes) -> None:
        try:
            await self._redis.delete(names.lock(generation))
        except REDIS_ERRORS:
            _ERROR.inc()

    async def _store(self, names: _Names, generation: bytes, value: bytes | None) -> None:
        ttl = self._ttl_seconds if value is not None else self._absent_ttl_seconds
        ttl *= 1 + random.uniform(-self._jitter, self._jitter)  # noqa: S311
        mark = PRESENT if value is not None else ABSENT
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.set(names.value, generation + mark + (value or b""), px=_milliseconds(ttl))
                pipeline.pexpire(names.generation, self._generation_ms(ttl), gt=True)
                # It may be another's by now, if this load took too long; the worst of that is one more load.
                pipeline.delete(names.lock(generation))
                await pipeline.execute()
        except REDIS_ERRORS:
            _ERROR.inc()

    def _generation_ms(self, value_ttl_seconds: float) -> int:
        """A generation outlives its values and the load that read it, else they would be thrown away too early."""
        return _milliseconds(value_ttl_seconds + self._wait_seconds + self._absent_ttl_seconds)


def _names(key: str, part: str) -> _Names:
    tag = f"shop:{{cache:{key}}}"
    return _Names(value=f"{tag}:value{':' if part else ''}{part}", generation=f"{tag}:generation")


def _new_generation() -> bytes:
    return secrets.token_bytes(GENERATION_BYTES)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


async def _run(load: Load) -> bytes | None:
    return await load()


CACHE = AppKey[Cache]("cache")


async def _cache(request: Request) -> Cache:
    return CACHE.of(request)


CacheDep = Annotated[Cache, Depends(_cache)]
