"""A line before a number of places: who comes first enters first, and only so many may wait."""

import asyncio
from collections import deque


class LineFull(Exception):
    """As many as may wait do so already."""


class WaitingLine:
    """So many are within at once. A bounded number of others waits, and enters in the order of coming."""

    def __init__(self, *, places: int, waiting_max: int) -> None:
        self._free = places
        self.waiting_max = waiting_max
        """How many may wait."""
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter_at_once(self) -> bool:
        """Enter if that needs no waiting. Raises LineFull when nobody more may wait either."""
        if self._free > 0:
            self._free -= 1
            return True
        if len(self._line) >= self.waiting_max:
            raise LineFull
        return False

    async def wait(self, seconds: float) -> None:
        """Enter when all who came before have. Raises TimeoutError after so many seconds."""
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException:
            if place.done() and not place.cancelled():
                self.leave()  # It was given in the same moment: to the next one.
            elif place in self._line:
                self._line.remove(place)
            raise

    def leave(self) -> None:
        """Give the place to whoever waits longest, else back."""
        while self._line:
            place = self._line.popleft()
            if not place.done():  # Else whoever waited has left, and was not told yet.
                place.set_result(None)
                return
        self._free += 1
