"""One thing's failure is its own: a loop tries each of its items by itself, and backs off from those that fail.

What nobody foresaw is logged, with its stack the first time, and counted; the item is tried again after a back-off of
its own, while all others are served. A transient error says that a server is away, which concerns all items alike: it
ends the round, but only when a second item in a row meets one, because it may be this item alone that is too slow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from shop import metrics
from shop.database import DATABASE_ERRORS, is_unavailable
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown
from shop.settings import Settings

# What the use of a server may raise; a loop logs it and tries again. A statement that is wrong is among them, which
# `is_transient` tells apart.
SERVER_ERRORS = (*DATABASE_ERRORS, *CONNECTION_ERRORS, NotSent, OutcomeUnknown)
TRANSIENT_IN_A_ROW_MAX = 2
FAILING_REMEMBERED_MAX = 10_000
# An item that nobody has tried for so long after its back-off is not there any more.
FORGET_SECONDS = 60.0

Item = TypeVar("Item")
Result = TypeVar("Result")

log = structlog.get_logger(__name__)


def itself(item: Any) -> Hashable:
    """An item that is its own key."""
    key: Hashable = item
    return key


def is_transient(error: Exception) -> bool:
    """Whether an error says that a server cannot be reached or cannot do it now; nothing is wrong with the item."""
    return isinstance(error, (*CONNECTION_ERRORS, NotSent, OutcomeUnknown)) or is_unavailable(error)


class _Failing:
    """An item that failed, how often in a row, and when it may be tried again."""

    __slots__ = ("due", "forgetting", "tries")

    def __init__(self, due: float, tries: int, forgetting: asyncio.TimerHandle) -> None:
        self.due = due
        self.tries = tries
        self.forgetting = forgetting


class Isolation:
    """The items of one loop that fail; `loop` is its name in the metrics and the log."""

    def __init__(self, loop: str, settings: Settings) -> None:
        self._loop = loop
        self._delay_min = settings.retry_delay_min_seconds
        self._delay_max = settings.item_retry_seconds_max
        self._transient_delay_max = min(settings.retry_delay_max_seconds, self._delay_max)
        self._failing: dict[Hashable, _Failing] = {}
        # From the start: a counter that begins at 1 has not increased.
        self._failures = metrics.ITEM_FAILURES.labels(loop)
        self._shown = metrics.ITEMS_FAILING.labels(loop)

    @property
    def count(self) -> int:
        """How many items fail. Whoever reads a limited number of items reads so many more: these do not hide others."""
        return len(self._failing)

    def backs_off(self, item: Hashable) -> bool:
        """Whether an item has failed and is not to be tried yet."""
        failing = self._failing.get(item)
        return failing is not None and asyncio.get_running_loop().time() < failing.due

    async def run(self, item: Hashable, work: Callable[[], Awaitable[Result]], otherwise: Result) -> Result:
        """What `work` returns; `otherwise` when it fails as nobody foresaw, or did so and is not to be tried yet.

        A transient error is noted as well, and raised.
        """
        if self.backs_off(item):
            return otherwise
        try:
            result = await work()
        except Exception as error:
            self.failed(item, error)
            if is_transient(error):
                raise
            return otherwise
        self.succeeded(item)
        return result

    async def attempt(self, item: Hashable, work: Callable[[], Awaitable[Result]], otherwise: Result) -> Result:
        """As `run`, but a transient error is this item's own as well: what comes next is another thing."""
        try:
            return await self.run(item, work, otherwise)
        except Exception as error:
            if not is_transient(error):
                raise
            return otherwise

    async def each(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Awaitable[object]],
        *,
        key: Callable[[Item], Hashable] = itself,
    ) -> None:
        """Work on one item after the other; `key` names an item.

        A transient error is raised when all others were tried, or at once after the second in a row.
        """
        transient: Exception | None = None
        in_a_row = 0
        for item in items:
            if self.backs_off(key(item)):
                continue
            try:
                await self.run(key(item), partial(work, item), None)
                in_a_row = 0
            except Exception as error:
                transient, in_a_row = transient or error, in_a_row + 1
                if in_a_row == TRANSIENT_IN_A_ROW_MAX:
                    raise
        if transient is not None:
            raise transient

    async def together(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        key: Callable[[Item], Hashable] = itself,
    ) -> list[Result]:
        """What `work` returns for all items at once; when that fails as nobody foresaw, halves are tried, and so on.

        So the one that fails is found, and only its result is missing. Raises transient errors.
        """
        items = [item for item in items if not self.backs_off(key(item))]
        if not items:
            return []
        if len(items) == 1:
            nothing: Sequence[Result] = ()
            return list(await self.run(key(items[0]), partial(work, items), nothing))
        try:
            results = list(await work(items))
        except Exception as error:
            if is_transient(error):
                raise
            middle = len(items) // 2
            halves = (items[:middle], items[middle:])
            return [result for half in halves for result in await self.together(half, work, key=key)]
        for item in items:
            self.succeeded(key(item))
        return results

    def failed(self, item: Hashable, error: Exception) -> None:
        """Take note of an item that failed: log it, count what nobody foresaw, and back off from the item."""
        failing = self._failing.pop(item, None)
        tries = failing.tries + 1 if failing else 1
        if failing is not None:
            failing.forgetting.cancel()
        transient = is_transient(error)
        if transient:
            log.warning("item_waits", loop=self._loop, item=str(item), tries=tries, reason=repr(error)[:200])
        else:
            self._failures.inc()
            stack = error if tries == 1 else None
            log.error(
                "item_failed", loop=self._loop, item=str(item), tries=tries, reason=repr(error)[:200], exc_info=stack
            )
        if failing is None:
            if len(self._failing) >= FAILING_REMEMBERED_MAX:
                return
            self._shown.inc()
        clock = asyncio.get_running_loop()
        delay_max = self._transient_delay_max if transient else self._delay_max
        delay = min(self._delay_min * 2 ** min(tries - 1, 30), delay_max)
        due = clock.time() + delay
        self._failing[item] = _Failing(due, tries, clock.call_at(due + FORGET_SECONDS, self.succeeded, item))

    def succeeded(self, item: Hashable) -> None:
        """An item is well again, or gone."""
        if not self._failing:
            return
        failing = self._failing.pop(item, None)
        if failing is not None:
            failing.forgetting.cancel()
            self._shown.dec()
