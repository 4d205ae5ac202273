"""How often one caller may ask: a bucket in the process first, then one that all processes share in Redis.

Both are the generic cell rate algorithm: one number a caller, the theoretical arrival time of their next request.
"""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from math import ceil, floor
from typing import Literal

import redis.asyncio as aioredis

from shop.batching import Coalescer
from shop.breaker import Breaker, CircuitOpen
from shop.errors import RateLimited
from shop.metrics import LIMITER_ERRORS
from shop.redis import NotSent, OutcomeUnknown, call_script
from shop.settings import Settings

PLAIN_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
HASH_BYTES = 16
MICROSECONDS = 1_000_000
# So soon the shared bucket learns of those who were admitted without it.
CHARGE_SECONDS = 0.1


class RateLimiter:
    """Admits each key at `rate_per_second` in the long run, and `burst` requests at once.

    The process keeps at most `users_max` callers and forgets the one who asked least recently, which is harmless: the
    shared bucket still knows them. At most `queue_max` questions wait for Redis, `batch_max` share a round trip, and
    after one that was not answered within `timeout` seconds Redis is not asked for `backoff_seconds`.

    Whoever is idle, with a bucket that is full as far as this process knows, need not wait for Redis: the shared
    bucket is charged within `CHARGE_SECONDS`. Who goes from process to process so exceeds the rate by one request for
    each of them, and is refused by all of them until the shared bucket has made up for it.
    """

    def __init__(
        self,
        redis: aioredis.Redis,
        *,
        name: str,
        rate_per_second: float,
        burst: int,
        users_max: int,
        timeout: float,
        batch_max: int = 256,
        in_flight_max: int = 2,
        queue_max: int = 10_000,
        backoff_seconds: float = 0.5,
    ) -> None:
        self.name = name
        self.window_seconds = _window_seconds(rate_per_second)
        self.quota = max(1, floor(rate_per_second * self.window_seconds + 1e-9))
        self._redis = redis
        self._timeout = timeout
        self._breaker = Breaker(failures_max=1, cooldown_seconds=backoff_seconds)
        self._burst = burst
        # Whole microseconds, so that a wait is never cut down to "admitted" on its way out of Lua.
        self._emission_us = ceil(MICROSECONDS / rate_per_second)
        self._emission_seconds = self._emission_us / MICROSECONDS
        self._tolerance_seconds = self._emission_seconds * (burst - 1)
        self._arrivals: OrderedDict[str, float] = OrderedDict()
        self._users_max = users_max
        self._shared: Coalescer[str, int] = Coalescer(
            self._ask_shared, batch_max=batch_max, in_flight_max=in_flight_max, queue_max=queue_max
        )
        self._charges: list[str] = []
        self._batch_max = batch_max
        self._charging: asyncio.Task[None] | None = None

    async def wait_seconds(self, key: str) -> float:
        """How long this caller must wait; 0.0 means that the request is admitted and counted."""
        wait = self.ask_process(key)
        if wait > 0:
            return wait
        try:
            wait = await self._shared.ask(self._redis_key(key)) / MICROSECONDS
        except (NotSent, OutcomeUnknown):  # also "the queue is full", and a batch that was cancelled
            # The limiter protects, it does not decide: without its Redis the process's own bucket must do.
            LIMITER_ERRORS.inc()
            return 0.0
        if wait > 0:
            self._postpone(key, wait)
        return wait

    def admits_idle(self, key: str) -> bool:
        """Admit and count a caller whose bucket is full; False for every other, who is asked about and not counted."""
        now = time.monotonic()
        if self._arrivals.get(key, 0.0) > now:
            return False
        self._keep(key, now + self._emission_seconds)
        self._charges.append(key)
        if self._charging is None:
            self._charging = asyncio.get_running_loop().create_task(self._charge_all())
        return True

    def refund(self, key: str) -> None:
        """An idle caller was admitted just now, and their request will be counted again."""
        self._arrivals.pop(key, None)
        with suppress(ValueError):  # The shared bucket knows already: it stays charged.
            self._charges.remove(key)

    async def _charge_all(self) -> None:
        """Charge the shared bucket for those who were admitted without it, as long as there are any."""
        try:
            await self._charge_those_who_wait()
        finally:
            self._charging = None

    async def _charge_those_who_wait(self) -> None:
        while self._charges:
            if len(self._charges) < self._batch_max:
                await asyncio.sleep(CHARGE_SECONDS)
            keys, self._charges = self._charges[: self._batch_max], self._charges[self._batch_max :]
            try:
                waits_us = await self._ask_shared([self._redis_key(key) for key in keys], mode="charge")
            except (NotSent, OutcomeUnknown):
                LIMITER_ERRORS.inc(len(keys))
                continue
            for key, wait_us in zip(keys, waits_us, strict=True):
                if wait_us > 0:
                    self._postpone(key, wait_us / MICROSECONDS)

    def refusal(self, wait_seconds: float) -> RateLimited:
        """The 429 that tells a caller to come back after so many seconds."""
        return RateLimited(
            retry_after=max(1, ceil(wait_seconds)),
            policy=self.name,
            quota=self.quota,
            window_seconds=self.window_seconds,
        )

    def ask_process(self, key: str) -> float:
        """How long this caller must wait by the bucket of this process alone; 0.0 means admitted and counted here."""
        now = time.monotonic()
        arrival = max(self._arrivals.get(key, 0.0), now)
        wait = arrival - now - self._tolerance_seconds
        if wait > 0:
            return wait
        self._keep(key, arrival + self._emission_seconds)
        return 0.0

    def _postpone(self, key: str, wait_seconds: float) -> None:
        """Refuse this caller here for as long as the shared bucket would, so that hammering does not reach Redis."""
        self._keep(key, time.monotonic() + wait_seconds + self._tolerance_seconds)

    def _keep(self, key: str, arrival: float) -> None:
        self._arrivals[key] = arrival
        self._arrivals.move_to_end(key)
        if len(self._arrivals) > self._users_max:
            self._arrivals.popitem(last=False)

    def _redis_key(self, key: str) -> str:
        """The key's name in Redis; what a client may have written freely becomes a hash."""
        if not PLAIN_KEY.fullmatch(key):
            key = "#" + hashlib.blake2b(key.encode(errors="backslashreplace"), digest_size=HASH_BYTES).hexdigest()
        return f"shop:{{rate}}:{self.name}:{key}"

    async def _ask_shared(self, keys: list[str], mode: Literal["", "charge"] = "") -> Sequence[int]:
        arguments = [self._emission_us, self._burst, mode]
        try:
            with self._breaker.asked(NotSent, OutcomeUnknown, TimeoutError):
                # The time to get a connection counts too: a Redis that hangs takes longest to greet a new one.
                async with asyncio.timeout(self._timeout):
                    waits: Sequence[int] = await call_script(
                        self._redis, "rate_limit", keys, arguments, timeout=self._timeout
                    )
        except (CircuitOpen, NotSent, OutcomeUnknown, TimeoutError) as error:
            raise NotSent(str(error)) from error
        return waits


def rate_limiter(
    redis: aioredis.Redis, settings: Settings, *, name: str, rate_per_second: float, burst: int
) -> RateLimiter:
    """A limiter with the bounds of the settings."""
    return RateLimiter(
        redis,
        name=name,
        rate_per_second=rate_per_second,
        burst=burst,
        users_max=settings.limiter_users_max,
        timeout=settings.limiter_timeout_seconds,
        batch_max=settings.limiter_batch_max,
        in_flight_max=settings.batches_in_flight_max,
        queue_max=settings.queue_max,
        backoff_seconds=settings.side_redis_backoff_seconds,
    )


async def limit(limiter: RateLimiter, key: str) -> None:
    """Admit this caller, or raise RateLimited."""
    wait = await limiter.wait_seconds(key)
    if wait > 0:
        raise limiter.refusal(wait)


def _window_seconds(rate_per_second: float) -> int:
    """The second or the minute if at least one request fits in it, else the time that one request takes."""
    for window in (1, 60):
        if rate_per_second * window >= 1:
            return window
    return ceil(1 / rate_per_second)
