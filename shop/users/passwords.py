"""Passwords: one form of each (RFC 8265), hashed by argon2id with OWASP's parameters, in a bounded pool of threads.

A hash costs 19 MiB and tens of milliseconds on purpose, so the pool is what keeps sign-ins from stopping the shop.
"""

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from functools import lru_cache
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


class Match(IntEnum):
    """Whether a password is the one of a hash; `RAW` if only as it was typed: the hash is older than the one form."""

    NONE = 0
    NORMAL = 1
    RAW = 2


def normal_form(password: str) -> str:
    """The password as every keyboard gives it: RFC 8265, OpaqueString. Raises ValueError for one that may not be new.

    Of what that profile forbids, only control characters are refused: what else somebody manages to type may stay.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in password):
        raise ValueError("a password has no control characters")
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in password)
    return unicodedata.normalize("NFC", spaced)


def _forms(password: str) -> dict[str, Match]:
    """What the hash may be of: the one form, and the password as it is, as hashes were made before."""
    try:
        return {password: Match.RAW, normal_form(password): Match.NORMAL}
    except ValueError:
        return {password: Match.RAW}


@lru_cache
def dummy_hash() -> str:
    """What a password is compared with where there is no hash. Nobody has known the password of this one."""
    return _hasher().hash(secrets.token_hex())


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)


class Passwords:
    """Hashes and verifies in `hashing_threads` threads; at most `hashing_queue_max` more may wait for one."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = _hasher()
        self._dummy = dummy_hash()
        self._threads = ThreadPoolExecutor(settings.hashing_threads, thread_name_prefix="passwords")
        self._under_way = 0
        self._under_way_max = settings.hashing_threads + settings.hashing_queue_max

    async def hash(self, password: str) -> str:
        """The hash to keep. Raises Overloaded when too many are waiting, or ValueError as `normal_form`."""
        normal = normal_form(password)
        return await self._run(lambda: self._hasher.hash(normal))

    async def verify(self, kept: str | None, password: str) -> Match:
        """Whether this is the password of the hash. Without a usable one the answer is no, after the same time."""
        usable = kept is not None and kept != UNUSABLE
        against = kept if usable and kept is not None else self._dummy
        match = await self._run(lambda: self._match(against, password))
        return match if usable else Match.NONE

    def close(self) -> None:
        """Let the threads end. Nothing is waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _match(self, kept: str, password: str) -> Match:
        for form, match in reversed(_forms(password).items()):
            try:
                self._hasher.verify(kept, form)
            except (VerificationError, InvalidHashError):
                continue
            return match
        return Match.NONE

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
