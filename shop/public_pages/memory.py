"""The pages that a process keeps: each is read once for all who ask for it, and is never older than it says.

A page lives from the moment before it was asked for, so that what was committed after that is seen when it has lived;
no news of a change is needed, so none can be lost. Shortly before its end it is read again for whoever asks, and
nobody waits. While it cannot be read again, the last one is shown, with its age, for a limited time.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from shop.failure_isolation import SERVER_ERRORS
from shop.public_pages.page import Page

LIVES_SECONDS = 0.15
REFRESH_SECONDS = 0.1
# Who asks for a page that is being read waits for so long before the last one has to do.
PATIENCE_SECONDS = 0.3
# A page that cannot be read is tried again after so long, and nobody waits longer than that for one.
RETRY_SECONDS, READ_SECONDS_MAX = 0.5, 1.5
READS_MAX = 10_000  # under way at the same time: any number of ids can be made up
FAILURES_MAX = 4_096  # pages of which it is remembered that they could not be read
ONE_PAGES_SHARE = 0.5  # of those who may wait, at most so many wait for the same page

log = structlog.get_logger(__name__)


class Key(NamedTuple):
    """Which page: of what kind, and its number: an id, or how many a list has."""

    kind: str
    number: int


class Unreadable(Exception):
    """The page cannot be read now, and there is none that is young enough to be shown."""


Read = Callable[[Key], Awaitable[Page | None]]
Waiter = asyncio.Future[Page | None]


@dataclass
class Reading:
    """A read that is under way, since when, and how many wait for it."""

    task: asyncio.Task[Page | None]
    begun_at: float
    waiters: int = 0


class PageMemory:
    """The pages of one process, in at most `bytes_max`; one that could not be read again is shown for a while.

    At most `waiters_max` callers wait for pages that are being read; more are shown the last page, or Unreadable.
    """

    def __init__(self, read: Read, *, bytes_max: int, waiters_max: int, stale_seconds_max: float) -> None:
        """`read` returns None for what is not there. That is not kept: a client can make up any number of ids."""
        self._read = read
        self._bytes_max = bytes_max
        self._waiters_max = waiters_max
        self._stale_seconds_max = stale_seconds_max
        self._pages: OrderedDict[Key, Page] = OrderedDict()
        self._bytes = 0
        self._waiters = 0
        self._reads: dict[Key, Reading] = {}
        self._failed_at: OrderedDict[Key, float] = OrderedDict()

    @property
    def size(self) -> int:
        """How many pages it has."""
        return len(self._pages)

    @property
    def bytes_kept(self) -> int:
        """About how much memory they take."""
        return self._bytes

    def find(self, key: Key) -> "Page | Waiter":
        """The page, or a future that brings it, or None if there is no such thing, or raises Unreadable."""
        now = time.monotonic()
        page = self._pages.get(key)
        if page is not None and now - page.asked_at < REFRESH_SECONDS:
            return page
        if now - self._failed_at.get(key, -RETRY_SECONDS) >= RETRY_SECONDS:
            self._begin(key, now)
        if page is not None and now - page.asked_at < LIVES_SECONDS:
            return page
        if page is not None and now - page.asked_at >= self._stale_seconds_max:
            page = None
        reading = self._reads.get(key)
        if page is not None and (reading is None or now - reading.begun_at >= PATIENCE_SECONDS):
            return page
        if reading is not None and self._is_full(reading):
            if page is not None:
                return page
            reading = None
        return self._wait(reading, page)

    def forget(self, kind: str, number: int | None = None) -> None:
        """Show a page, or all of a kind, no more as it is now, nor as it was when a read began that is under way."""
        for key in [key for key in (*self._pages, *self._reads) if key.kind == kind and number in (None, key.number)]:
            self._drop(key)
            self._reads.pop(key, None)

    def _is_full(self, reading: Reading) -> bool:
        """Whether nobody more may wait, or nobody more for this page."""
        return self._waiters >= self._waiters_max or reading.waiters >= self._waiters_max * ONE_PAGES_SHARE

    def _wait(self, reading: Reading | None, stale: Page | None) -> Waiter:
        """What is being read, or else what is there: a page that is not too old, or Unreadable."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        if reading is None:
            waiter.set_exception(Unreadable())
            return waiter
        self._waiters += 1
        reading.waiters += 1
        timer = None if stale is None else loop.call_later(PATIENCE_SECONDS, _tell, waiter, stale)

        def tell(done: "asyncio.Task[Page | None]") -> None:
            self._waiters -= 1
            if timer is not None:
                timer.cancel()
            failed = done.cancelled() or done.exception() is not None
            _tell(waiter, stale if failed else done.result(), failed=failed)

        reading.task.add_done_callback(tell)
        return waiter

    def _begin(self, key: Key, now: float) -> None:
        if key not in self._reads and len(self._reads) < READS_MAX:
            self._reads[key] = Reading(asyncio.create_task(self._read_page(key)), now)
            self._reads[key].task.add_done_callback(_seen)

    async def _read_page(self, key: Key) -> Page | None:
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                page = await self._read(key)
        except Exception as error:
            if key not in self._failed_at or not isinstance(error, SERVER_ERRORS):
                log.warning("page_not_read", kind=key.kind, number=key.number, reason=repr(error)[:200])
            self._failed_at[key] = time.monotonic()
            if len(self._failed_at) > FAILURES_MAX:
                self._failed_at.popitem(last=False)
            raise
        else:
            self._failed_at.pop(key, None)
            if self._is_current(key):
                self._keep(key, page)
            return page
        finally:
            if self._is_current(key):
                del self._reads[key]

    def _is_current(self, key: Key) -> bool:
        """Whether the read that asks is the one for this page; not one that was begun before it was forgotten."""
        reading = self._reads.get(key)
        return reading is not None and reading.task is asyncio.current_task()

    def _keep(self, key: Key, page: Page | None) -> None:
        self._drop(key)
        if page is None:
            return
        self._pages[key] = page
        self._bytes += page.bytes_kept
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._pages)))

    def _drop(self, key: Key) -> None:
        page = self._pages.pop(key, None)
        if page is not None:
            self._bytes -= page.bytes_kept


def _tell(waiter: Waiter, page: Page | None, *, failed: bool = False) -> None:
    if waiter.done():
        return
    if failed and page is None:
        waiter.set_exception(Unreadable())
    else:
        waiter.set_result(page)


def _seen(task: asyncio.Task[Page | None]) -> None:
    """What a read has raised is told to those who wait; there may be none."""
    if not task.cancelled():
        task.exception()
