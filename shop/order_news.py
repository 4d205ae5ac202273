"""News of orders: who changes one says so in Redis, and each process receives it once for all who wait in it.

A message is the packed ids of orders, and says no more than "read it again". It may be lost, so whoever waits must
also poll now and then. It costs a process one look-up in a dictionary for each id, however many wait in it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Self, TypeVar
from uuid import UUID

import redis.asyncio as aioredis
import structlog

from shop.errors import Overloaded, RateLimited
from shop.redis import REDIS_ERRORS
from shop.settings import Settings
from shop.stopping import Backoff, cancel_and_wait
from shop.timer_wheel import TimerWheel

CHANNEL = "shop:orders:changed"
ID_BYTES = 16
IDS_PER_MESSAGE_MAX = 1_024
# Ids that may wait to be told; while Redis is that slow, it is no help to anybody.
UNTOLD_IDS_MAX = 100_000
# After so long without a message Redis is asked whether it is still there, and has as long again to answer.
SILENCE_SECONDS_MAX = 5.0
# A wait may last so much longer than it was to.
TICK_SECONDS = 0.05
# What those know who are about to read the order anyway: a poll tells them nothing.
READING = -1

log = structlog.get_logger(__name__)


class Announcer:
    """Tells every process which orders have changed. Nobody waits for it, and what Redis does not take is lost."""

    def __init__(self, client: aioredis.Redis, settings: Settings) -> None:
        self._client = client
        self._timeout = settings.redis_timeout_seconds
        self._untold = bytearray()
        self._telling: asyncio.Task[None] | None = None
        self._healthy = True

    async def tell(self, order_ids: Iterable[UUID]) -> None:
        """Announce these orders soon, together with others; call it when what has changed is committed."""
        self._untold += b"".join([order_id.bytes for order_id in order_ids])
        del self._untold[: -UNTOLD_IDS_MAX * ID_BYTES]
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell_all())

    async def close(self) -> None:
        """Tell what is left to tell, if Redis takes it in time."""
        if self._telling is not None:
            await cancel_and_wait([self._telling], within=self._timeout)

    async def _tell_all(self) -> None:
        try:
            while self._untold:
                message = bytes(self._untold[: IDS_PER_MESSAGE_MAX * ID_BYTES])
                del self._untold[: len(message)]
                async with asyncio.timeout(self._timeout):
                    await self._client.publish(CHANNEL, message)
                self._healthy = True
        except REDIS_ERRORS as error:
            self._untold.clear()
            if self._healthy:
                log.warning("orders_not_announced", reason=repr(error)[:200])
            self._healthy = False
        finally:
            self._telling = None


class Listener:
    """One who waits for news of an order, until the end of its `with` block.

    `known` is the version of the order that they have: 0 is none, see `shop.orders`; READING is the one to come.
    """

    __slots__ = ("_account", "_address", "_changed", "_changes", "_waiter", "_woken", "known", "order_id")

    def __init__(self, changes: "Changes", *, account: str | None, address: str | None) -> None:
        self.known = 0
        self.order_id = b""
        self._changes = changes
        self._account = account
        self._address = address
        self._changed = self._woken = False
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._changes.left(self, account=self._account, address=self._address)

    def expect(self, order_id: bytes) -> None:
        """Listen for this order from now on, and for no other."""
        self.leave()
        self._changes.add(order_id, self)
        self.order_id = order_id
        self._changed = self._woken = False

    def leave(self) -> None:
        """Listen no longer."""
        if self.order_id:
            self._changes.remove(self.order_id, self)
            self.order_id = b""

    @property
    def stopped(self) -> bool:
        """Whether the process stops, so that waiting is over."""
        return self._changes.stopped

    def wake(self, *, changed: bool = True) -> None:
        """Wake the one who waits: the order has changed, or there is another reason to look around."""
        self._changed = self._changed or changed
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Whether the order has changed since the last wait; False after so long, or when woken for another reason."""
        if seconds > 0 and not self._woken and not self._changes.stopped:
            wheel, self._waiter = self._changes.wheel, asyncio.get_running_loop().create_future()
            slot = wheel.add(self, seconds)
            try:
                await self._waiter
            finally:
                self._waiter = None
                wheel.remove(self, slot)
        changed, self._changed, self._woken = self._changed, False, False
        return changed


class Changes:
    """All who wait for news in one process, and its one subscription."""

    def __init__(self, client: aioredis.Redis, settings: Settings) -> None:
        self.stopped = False
        self.wheel: TimerWheel[Listener] = TimerWheel(partial(Listener.wake, changed=False), tick_seconds=TICK_SECONDS)
        self._client = client
        self._settings = settings
        # Mostly one listener an order: a tuple is smaller than a set, and may be replaced while it is walked through.
        self._listeners: dict[bytes, tuple[Listener, ...]] = {}
        self._count = 0
        # Listeners of a known account or address, which may not have all of the slots.
        self._of_account: dict[str, tuple[Listener, ...]] = {}
        self._of_address: Counter[str] = Counter()
        half = max(1, settings.order_listeners_max // 2)
        self._per_account_max = min(settings.listeners_per_account_max, half)
        self._per_address_max = min(settings.listeners_per_address_max, half)

    @property
    def listeners(self) -> int:
        """How many wait."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether nobody else may wait here."""
        return self._count >= self._settings.order_listeners_max

    def listening(self, order_id: bytes = b"", *, account: str | None = None, address: str | None = None) -> Listener:
        """A listener for the time of a `with` block; without an id it names one later, with `expect`.

        `account` and `address` are those for whom it listens, as far as they are counted.

        Register first and read the state afterwards: then no change is missed between the two. Raises Overloaded when
        the process has too many listeners, RateLimited when this order, account or address has.
        """
        if self.full:
            raise Overloaded("Too many wait for news of their orders here")
        if len(self._listeners.get(order_id, ())) >= self._settings.listeners_per_order_max:
            raise RateLimited("This order is followed too often at once", policy="order_events", retry_after=5.0)
        if account is not None and len(self._of_account.get(account, ())) >= self._per_account_max:
            raise RateLimited("This account follows too many orders at once", policy="account_events", retry_after=5.0)
        if address is not None and self._of_address[address] >= self._per_address_max:
            raise RateLimited("Too many follow orders from this address", policy="address_events", retry_after=5.0)
        listener = Listener(self, account=account, address=address)
        self._count += 1
        if account is not None:
            self._of_account[account] = (*self._of_account.get(account, ()), listener)
        if address is not None:
            self._of_address[address] += 1
        if order_id:
            listener.expect(order_id)
        return listener

    def left(self, listener: Listener, *, account: str | None, address: str | None) -> None:
        """Undo `listening`."""
        self._count -= 1
        if account is not None:
            _without(self._of_account, account, listener)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def add(self, order_id: bytes, listener: Listener) -> None:
        """Wake this listener with this order."""
        self._listeners[order_id] = (*self._listeners.get(order_id, ()), listener)

    def remove(self, order_id: bytes, listener: Listener) -> None:
        """Undo `add`."""
        _without(self._listeners, order_id, listener)

    def received(self, message: bytes) -> None:
        """Wake those who wait for one of these orders."""
        listeners = self._listeners
        if not listeners:
            return
        for start in range(0, len(message), ID_BYTES):
            for listener in listeners.get(message[start : start + ID_BYTES], ()):
                listener.wake()

    def followed(self) -> list[bytes]:
        """The orders that somebody waits for."""
        return list(self._listeners)

    def seen(self, order_id: bytes, version: int) -> None:
        """A version was read: wake those who know another version of this order."""
        for listener in self._listeners.get(order_id, ()):
            if listener.known not in {version, READING}:
                listener.wake()

    def wake_accounts(self, user_ids: Iterable[str]) -> None:
        """Wake those who listen for these accounts: whether their tokens are still good is to be asked again."""
        for user_id in user_ids:
            for listener in self._of_account.get(user_id, ()):
                listener.wake(changed=False)

    def stop(self) -> None:
        """Let everybody go: the process is asked to stop."""
        if not self.stopped:
            self.stopped = True
            for listeners in self._listeners.values():
                for listener in listeners:
                    listener.wake(changed=False)

    async def follow(self, stopping: asyncio.Event) -> None:
        """Hear what is announced, until `stopping` is set; a lost connection is made again after a back-off."""
        backoff, healthy = Backoff.of(self._settings), True
        while not stopping.is_set():
            receiving = asyncio.ensure_future(self._receive())
            stopped = asyncio.ensure_future(stopping.wait())
            started = asyncio.get_running_loop().time()
            await asyncio.wait({receiving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            lasted = asyncio.get_running_loop().time() - started
            await cancel_and_wait([receiving, stopped])
            if lasted > backoff.max_seconds:
                backoff.reset()
                healthy = True
            if not receiving.cancelled() and (error := receiving.exception()):
                if not isinstance(error, REDIS_ERRORS):
                    raise error
                if healthy:
                    log.warning("order_changes_not_received", reason=repr(error)[:200])
                healthy = False
            await backoff.wait(stopping)

    async def _receive(self) -> None:
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(CHANNEL)
            asked = False
            while True:
                message = await subscription.get_message(timeout=SILENCE_SECONDS_MAX)
                if message is not None:
                    asked = False
                    if message["type"] == "message":
                        self.received(message["data"])
                elif asked:
                    raise ConnectionError("Redis has not answered")
                else:
                    asked = True
                    await subscription.ping()


Key = TypeVar("Key")


def _without(listeners: dict[Key, tuple[Listener, ...]], key: Key, listener: Listener) -> None:
    if left := tuple(each for each in listeners[key] if each is not listener):
        listeners[key] = left
    else:
        del listeners[key]
