"""The overload gate: whether a purchase is admitted, by how long it would be delayed in this process.

The delay is measured, not guessed from a number of requests: how long a turn of the event loop takes, since a request
that is read now may have waited in the kernel for a whole turn, and how long the oldest purchase waits for a script
call. (Queueing time tells overload from slow answers: Zhou et al., "Overload Control for Scaling WeChat Microservices",
SoCC 2018.)
"""

import asyncio
import time


class OverloadGate:
    """The delay of one process. It measures only while requests come: an idle loop costs nothing."""

    def __init__(self, *, delay_seconds_max: float) -> None:
        self._delay_seconds_max = delay_seconds_max
        self._turn_began = 0.0
        self._last_turn_began = 0.0
        self._measuring = False
        self._heard = False
        self._closed_since: float | None = None

    def heard(self) -> None:
        """A socket had something to read in this turn of the loop."""
        self._heard = True
        if not self._measuring:
            self._measuring = True
            self._turn_began = self._last_turn_began = time.monotonic()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Runs once in each turn of the loop for as long as requests come."""
        self._last_turn_began, self._turn_began = self._turn_began, time.monotonic()
        self._measuring, self._heard = self._heard, False
        if self._measuring:
            asyncio.get_running_loop().call_soon(self._turn)

    @property
    def lag_seconds(self) -> float:
        """How long a request that is handled now may have waited since it could be read."""
        return time.monotonic() - self._last_turn_began if self._measuring else 0.0

    def admits(self, queued_seconds: float) -> bool:
        """Whether a purchase may go on that would have so long to wait in the queue, besides the lag."""
        if self.lag_seconds + queued_seconds <= self._delay_seconds_max:
            self._closed_since = None
            return True
        if self._closed_since is None:
            self._closed_since = time.monotonic()
        return False

    @property
    def closed_seconds(self) -> float:
        """For how long every purchase has been refused."""
        return 0.0 if self._closed_since is None else time.monotonic() - self._closed_since
