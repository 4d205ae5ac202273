"""What the cache keeps in Redis: values with their generation, and locks. Who asks at once shares a round trip."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis

from shop.batching import Coalescer
from shop.breaker import Breaker, CircuitOpen
from shop.redis import CONNECTION_ERRORS, REDIS_ERRORS, Command, NotSent, call_many
from shop.settings import Settings

GENERATION_BYTES = 12
PRESENT, ABSENT = b"1", b"0"
GROUPS_PER_ROUND_TRIP_MAX, ROUND_TRIPS_IN_FLIGHT_MAX, QUEUE_MAX = 128, 2, 20_000

# What says that Redis could not be asked, or did not answer.
STORE_ERRORS = (*REDIS_ERRORS, CircuitOpen, NotSent)


@dataclass(frozen=True)
class Names:
    """Where one entry is kept. The tag holds the names of a key together on one node of a cluster."""

    value: str
    generation: str

    def lock(self, generation: bytes) -> str:
        """One loader for each generation: a load begun before an invalidation must not hold up the one after it."""
        return f"{self.value}:lock:{generation.hex()}"


@dataclass(frozen=True)
class Lookup:
    """The generation of the key, and whether a value of it is there; None is the value of a thing that is absent.

    The generation is empty if the key has none.
    """

    generation: bytes
    found: bool
    value: bytes | None


class CacheStore:
    """The entries in Redis. Every method but `invalidate` raises one of STORE_ERRORS when it cannot be asked."""

    def __init__(self, redis: aioredis.Redis, settings: Settings) -> None:
        self._redis = redis
        self._ttl_seconds = settings.cache_ttl_seconds
        self._absent_ttl_seconds = settings.cache_absent_ttl_seconds
        self._jitter = settings.cache_jitter
        self._wait_seconds = settings.cache_load_wait_seconds
        self._timeout_seconds = settings.redis_timeout_seconds
        self._breaker = Breaker(failures_max=1, cooldown_seconds=settings.side_redis_backoff_seconds)
        # A group of commands is sent over one connection, in its order: a lock is not gone before the value is there.
        self._groups: Coalescer[tuple[Command, ...], list[Any]] = Coalescer(
            self._send,
            batch_max=GROUPS_PER_ROUND_TRIP_MAX,
            in_flight_max=ROUND_TRIPS_IN_FLIGHT_MAX,
            queue_max=QUEUE_MAX,
        )

    async def lookup(self, names: Names, *, starting: bool = True) -> Lookup:
        """What is there; a key that has no generation gets one if `starting`."""
        ((generation, stored),) = await self._ask(("MGET", names.generation, names.value))
        if generation is None:
            generation = await self.start_generation(names) if starting else b""
        if not generation or stored is None or not stored.startswith(generation):
            return Lookup(generation, found=False, value=None)
        mark, value = stored[GENERATION_BYTES : GENERATION_BYTES + 1], stored[GENERATION_BYTES + 1 :]
        return Lookup(generation, found=True, value=value if mark == PRESENT else None)

    async def lock(self, names: Names, generation: bytes) -> bool:
        """Whether the caller is the one who loads this generation; the lock ends by itself after a while."""
        ms = _milliseconds(self._wait_seconds)
        (locked,) = await self._ask(("SET", names.lock(generation), b"", "NX", "PX", ms))
        return bool(locked)

    async def unlock(self, names: Names, generation: bytes) -> None:
        """Let another one load."""
        await self._ask(("DEL", names.lock(generation)))

    async def keep(self, names: Names, generation: bytes, value: bytes | None) -> None:
        """Keep what was loaded, and unlock."""
        ttl = self._ttl_seconds if value is not None else self._absent_ttl_seconds
        ttl *= 1 + random.uniform(-self._jitter, self._jitter)  # noqa: S311
        mark = PRESENT if value is not None else ABSENT
        await self._ask(
            ("SET", names.value, generation + mark + (value or b""), "PX", _milliseconds(ttl)),
            ("PEXPIRE", names.generation, self._generation_ms(ttl), "GT"),
            # It may be another's by now, if this load took too long; the worst of that is one more load.
            ("DEL", names.lock(generation)),
        )

    async def invalidate(self, keys: Sequence[str]) -> None:
        """Give these keys new generations. Raises one of REDIS_ERRORS."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.set(names_of(key, "").generation, _new_generation(), px=self._generation_ms(0))
            await pipeline.execute()

    async def start_generation(self, names: Names) -> bytes:
        """The generation of this key, a new one if it has none."""
        new = _new_generation()
        ms = self._generation_ms(0)
        (earlier,) = await self._ask(("SET", names.generation, new, "NX", "GET", "PX", ms))
        return earlier or new

    async def _ask(self, *group: Command) -> list[Any]:
        answers = await self._groups.ask(group)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _send(self, groups: list[tuple[Command, ...]]) -> Sequence[list[Any]]:
        commands = [command for group in groups for command in group]
        with self._breaker.asked(*CONNECTION_ERRORS):
            answers = iter(await call_many(self._redis, commands, timeout=self._timeout_seconds))
        return [[next(answers) for _ in group] for group in groups]

    def _generation_ms(self, value_ttl_seconds: float) -> int:
        """A generation outlives its values and the load that read it, else they would be thrown away too early."""
        return _milliseconds(value_ttl_seconds + self._wait_seconds + self._absent_ttl_seconds)


def names_of(key: str, part: str) -> Names:
    """Where a part of a key is kept."""
    tag = f"shop:{{cache:{key}}}"
    return Names(value=f"{tag}:value{':' if part else ''}{part}", generation=f"{tag}:generation")


def _new_generation() -> bytes:
    return secrets.token_bytes(GENERATION_BYTES)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
