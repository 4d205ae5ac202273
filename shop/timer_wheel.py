"""Deadlines of many by one timer: for those who mostly do not live to see it, and can be a moment late."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class TimerWheel(Generic[Item]):
    """Calls `due` with each item within a tick after its time. An item may wait once at a time.

    A timer of its own costs ten times as much memory as a place here, and each wake-up of the loop is for one alone.
    (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 4 without its bound.)
    """

    def __init__(self, due: Callable[[Item], None], *, tick_seconds: float) -> None:
        self._due = due
        self._tick_seconds = tick_seconds
        self._slots: dict[int, set[Item]] = {}
        self._ticking = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, item: Item, seconds: float) -> int:
        """Let this item be due after so many seconds. Returns the slot that `remove` wants."""
        # Kept, because on Python 3.11 `get_running_loop` is a system call each time.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        slot = int((loop.time() + seconds) / self._tick_seconds) + 1
        self._slots.setdefault(slot, set()).add(item)
        if not self._ticking:
            self._ticking = True
            loop.call_later(self._tick_seconds, self._tick, loop)
        return slot

    def remove(self, item: Item, slot: int) -> None:
        """Let this item be due no more, if it has not been yet."""
        if (items := self._slots.get(slot)) is not None:
            items.discard(item)
            if not items:
                del self._slots[slot]

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() / self._tick_seconds)
        for slot in [slot for slot in self._slots if slot <= now]:
            for item in self._slots.pop(slot):
                self._due(item)
        self._ticking = bool(self._slots)
        if self._ticking:
            loop.call_later(self._tick_seconds, self._tick, loop)
