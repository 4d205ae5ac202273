"""Cache-aside in Redis: what is read often and changed seldom, never stale after an invalidation.

Each key has a generation, a random word. A value carries the generation that was read before its load began, and
readers take it only while that is still the key's generation. `invalidate` sets a new one, so a load that was under way
may write whatever it likes: nobody will take it. A generation that Redis forgets is replaced by a new random one.

What a client makes up is never written: a key of which Redis knows nothing is asked for in the database first, and that
there is no such thing stays in the process.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, TypeVar

import redis.asyncio as aioredis
import structlog
from fastapi import Depends, Request

from shop import metrics
from shop.app_keys import AppKey
from shop.cache_store import STORE_ERRORS, CacheStore, Names, names_of
from shop.errors import Overloaded
from shop.redis import REDIS_ERRORS
from shop.settings import Settings

Load = Callable[[], Awaitable[bytes | None]]
Exists = Callable[[], Awaitable[bool]]
Name = TypeVar("Name")
Kept = TypeVar("Kept")

EXISTENCE = b"?"  # instead of a generation
POLL_SECONDS = 0.02
KNOWN_MAX = 10_000  # things that one process has seen to exist

_HIT, _MISS, _ABSENT, _ERROR = (metrics.CACHE.labels(result=result) for result in ("hit", "miss", "absent", "error"))
_log = structlog.get_logger(__name__)


class Cache:
    """Values by key. Keys are written by the shop, never by a client.

    At most `cache_absent_max` things that are absent are remembered; `cache_unknown_queue_max` callers may wait for the
    word whether there is such a thing.
    """

    def __init__(self, redis: aioredis.Redis, settings: Settings) -> None:
        # Told of each invalidation by this process when it is done.
        self.invalidated: Callable[[Sequence[str]], None] = lambda _: None
        self._store = CacheStore(redis, settings)
        self._absent_ttl_seconds = settings.cache_absent_ttl_seconds
        self._wait_seconds = settings.cache_load_wait_seconds
        self._loads: dict[tuple[str, bytes], asyncio.Task[bytes | None]] = {}
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._absent_max = settings.cache_absent_max
        self._known: OrderedDict[str, None] = OrderedDict()
        self._unknown_waiting = 0
        self._unknown_waiting_max = settings.cache_unknown_queue_max

    async def get_or_load(self, key: str, load: Load, *, part: str = "", exists: Exists | None = None) -> bytes | None:
        """The value of this key, or None for a thing that does not exist; both are kept for a while.

        `part` names one of several values of the key, which are invalidated together. `load` is called when there is
        no value; many callers share one call, so it must not use anything that belongs to one of them, such as the
        session of a request. What it raises, they all get. Without Redis every value is loaded.

        A client may name any key, so whoever takes one from a client says with `exists` whether there is such a thing;
        it is asked where neither Redis nor this process has ever heard of the key. Raises Overloaded when too many ask
        for unknown ones.
        """
        names = names_of(key, part)
        try:
            lookup = await self._store.lookup(names, starting=exists is None)
        except STORE_ERRORS:
            _ERROR.inc()
            return await self._share((names.value, b""), load)
        if not lookup.generation and exists is not None:
            if names.value not in self._known and await self._is_absent(names.value, exists):
                _ABSENT.inc()
                return None
            remember(self._known, names.value, None, KNOWN_MAX)
            return await self._load_first(names, load)
        if lookup.found:
            (_HIT if lookup.value is not None else _ABSENT).inc()
            return lookup.value
        _MISS.inc()
        # Shared by generation: who comes after an invalidation does not join a load that began before it.
        load_once = partial(self._load_once, names, lookup.generation, load)
        return await self._share((names.value, lookup.generation), load_once)

    async def _load_first(self, names: Names, load: Load) -> bytes | None:
        """Load what Redis has never heard of; whoever has the lock finds out whether another process has, meanwhile."""
        _MISS.inc()
        try:
            generation = await self._store.start_generation(names)
        except STORE_ERRORS:
            _ERROR.inc()
            return await self._share((names.value, b""), load)
        return await self._share((names.value, generation), partial(self._load_once, names, generation, load))

    async def invalidate(self, *keys: str) -> None:
        """Forget these keys; call it after the commit of what changed them. It never raises.

        If Redis cannot be reached, old values may be seen until their time to live is over.
        """
        for key in keys:
            value = names_of(key, "").value
            for shared in [each for each in self._loads if each[0].startswith(value) and not each[1]]:
                del self._loads[shared]
        try:
            await self._store.invalidate(keys)
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
            until = time.monotonic() + self._absent_ttl_seconds
            if await exists():
                return b""
        finally:
            self._unknown_waiting -= 1
        remember(self._absent, name, until, self._absent_max)
        return None

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

    async def _load_once(self, names: Names, generation: bytes, load: Load) -> bytes | None:
        """Load and keep the value, unless another process is at it: then wait for its value, but not for ever."""
        deadline = time.monotonic() + self._wait_seconds
        try:
            while time.monotonic() < deadline:
                locked = await self._store.lock(names, generation)
                if not locked:
                    await asyncio.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
                # With the lock, too: another process may have stored the value between our look-up and our lock.
                lookup = await self._store.lookup(names)
                if lookup.found:
                    if locked:
                        await self._unlock(names, generation)
                    return lookup.value
                if locked and lookup.generation == generation:
                    break
                generation = lookup.generation
        except STORE_ERRORS:
            _ERROR.inc()
            return await load()
        try:
            value = await load()
        except Exception:
            await self._unlock(names, generation)
            raise
        await self._keep(names, generation, value)
        return value

    async def _unlock(self, names: Names, generation: bytes) -> None:
        try:
            await self._store.unlock(names, generation)
        except STORE_ERRORS:
            _ERROR.inc()

    async def _keep(self, names: Names, generation: bytes, value: bytes | None) -> None:
        try:
            await self._store.keep(names, generation, value)
        except STORE_ERRORS:
            _ERROR.inc()


def remember(kept: OrderedDict[Name, Kept], name: Name, value: Kept, bound: int) -> None:
    """Keep a value as the newest one; of more than `bound` the oldest goes."""
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > bound:
        kept.popitem(last=False)


async def _run(load: Load) -> bytes | None:
    return await load()


CACHE = AppKey[Cache]("cache")


async def _cache(request: Request) -> Cache:
    return CACHE.of(request)


CacheDep = Annotated[Cache, Depends(_cache)]
