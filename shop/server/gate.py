"""The overload gate: whether a purchase is admitted, by how long it would be delayed in this process.

The delay is measured, not guessed from a number of requests. A loop iteration reads what has come and runs what was
read before; in it, purchases are admitted while the CPU time that they take by the estimate fits into the greatest
delay. To that are added the lag of the loop in its last iteration, without the time that refusals took, and the time
that the oldest purchase has waited for a script call. (That queueing time tells overload from slow answers: Zhou et
al., "Overload Control for Scaling WeChat Microservices", SoCC 2018.)
"""

import asyncio
import time

# A quiet iteration says nothing about the time of a purchase among many, nor does one with much else in it.
BUSY_REQUESTS_MIN, PURCHASES_SHARE_MIN = 16, 0.75
# What a refusal, or an answer by the latch, takes of the time of a purchase.
LIGHT = 0.35
# The weight of the past in the moving average (EWMA) of the time of a purchase.
EWMA_DECAY = 0.8


class OverloadGate:
    """The delay of one process. It measures only while requests come: an idle loop costs nothing."""

    def __init__(self, *, delay_seconds_max: float, refused_at_once_max: int) -> None:
        self._delay_seconds_max = delay_seconds_max
        self._refused_at_once_max = refused_at_once_max
        self._iteration_began = self._cpu_began = 0.0
        self._measuring = False
        self._reads = 0
        self._lag_seconds = 0.0
        self._cpu_seconds = self._purchases = self._purchase_seconds = 0.0
        self._admitted = self._refused = self._latched = 0

    def count_read(self) -> None:
        """A connection had something to read in this loop iteration."""
        self._reads += 1
        if not self._measuring:
            self._measuring = True
            self._lag_seconds = 0.0
            self._iteration_began, self._cpu_began = time.monotonic(), time.thread_time()
            asyncio.get_running_loop().call_soon(self._measure)

    def _measure(self) -> None:
        """Runs once in each loop iteration while requests come."""
        now, cpu = time.monotonic(), time.thread_time()
        self._update_estimate(cpu - self._cpu_began)
        seconds, self._iteration_began, self._cpu_began = now - self._iteration_began, now, cpu
        self._lag_seconds = max(seconds - self._delay_seconds_max - self._refusing_seconds, 0.0)
        self._measuring = self._reads > 0
        self._reads = self._admitted = self._refused = self._latched = 0
        if self._measuring:
            asyncio.get_running_loop().call_soon(self._measure)

    def _update_estimate(self, cpu_seconds: float) -> None:
        """Take the CPU time of an iteration into the estimate of what a purchase takes."""
        purchases = self._admitted + self._refused + self._latched
        if purchases < BUSY_REQUESTS_MIN or purchases < PURCHASES_SHARE_MIN * self._reads:
            return
        # Of both apart: an iteration in which many are answered and few are read says little of one purchase.
        self._cpu_seconds = EWMA_DECAY * self._cpu_seconds + cpu_seconds
        self._purchases = EWMA_DECAY * self._purchases + self._load
        self._purchase_seconds = self._cpu_seconds / self._purchases

    @property
    def _load(self) -> float:
        """The work of this iteration, in purchases."""
        return self._admitted + LIGHT * (self._refused + self._latched)

    def admits(self, queued_seconds: float) -> bool:
        """Whether a purchase is admitted; the oldest one has waited `queued_seconds` for a script call."""
        if self.refuses(queued_seconds):
            return False
        self.count_admitted()
        return True

    def refuses(self, queued_seconds: float) -> bool:
        """Whether a purchase is shed; one that is not, and is begun, is counted by `count_admitted`."""
        ahead_seconds = self._load * self._purchase_seconds if self._measuring else 0.0
        refused = self._lag_seconds + ahead_seconds + queued_seconds > self._delay_seconds_max
        self._refused += refused
        return refused

    @property
    def refusing(self) -> bool:
        """Whether a purchase was refused in this iteration: the next one most likely will be."""
        return self._refused > 0

    def count_admitted(self) -> None:
        """A purchase that was not refused is begun in this iteration."""
        self._admitted += 1

    def count_latched(self) -> None:
        """A purchase is answered by the latch, which costs no more than a refusal: it is always admitted."""
        self._latched += 1

    @property
    def lagging(self) -> bool:
        """Whether the last iteration took longer than a purchase may be delayed."""
        return self._measuring and self._lag_seconds > 0

    @property
    def saturated(self) -> bool:
        """Whether so many are refused in one iteration that it does not help: they are sent again at once."""
        return self._refused > self._refused_at_once_max

    @property
    def _refusing_seconds(self) -> float:
        """What the refusals of this iteration took."""
        return LIGHT * self._refused * self._purchase_seconds
