"""Password hashes: argon2id with OWASP's parameters, in a bounded pool of threads.

A hash costs 19 MiB and tens of milliseconds on purpose, so the pool is what keeps sign-ins from stopping the shop.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from shop.errors import Overloaded
from shop.settings import Settings

# OWASP Password Storage Cheat Sheet: argon2id, m = 19 MiB, t = 2, p = 1.
MEMORY_KIB = 19_456
PASSES = 2
LANES = 1

# The hash of an account that nobody can sign in to. No password has it.
UNUSABLE = "!"

Result = TypeVar("Result")


class Passwords:
    """Hashes and verifies in `hashing_threads` threads; at most `hashing_queue_max` more may wait for one."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(settings.hashing_threads, thread_name_prefix="passwords")
        self._under_way = 0
        self._under_way_max = settings.hashing_threads + settings.hashing_queue_max
        self._dummy = self._hasher.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises Overloaded when too many are waiting."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether this is the password of the hash. Without a usable one the answer is no, after the same time."""
        if kept is None or kept == UNUSABLE:
            await self._run(lambda: self._matches(self._dummy, password))
            return False
        return await self._run(lambda: self._matches(kept, password))

    def close(self) -> None:
        """Let the threads end. Nothing is waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._under_way >= self._under_way_max:
            raise Overloaded
        self._under_way += 1
        loop = asyncio.get_running_loop()
        job = self._threads.submit(work)

        def finished(_: Future[Result]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._finished)

        # Counted until the thread is free, not until the caller leaves: a thread cannot be stopped.
        job.add_done_callback(finished)
        return await asyncio.wrap_future(job)

    def _finished(self) -> None:
        self._under_way -= 1
