"""The overload gate: whether a purchase is admitted, by how long it would be delayed in this process.

The delay is measured, not guessed from a number of requests. A turn of the event loop reads what has come and runs what
was read before; in it, purchases are admitted for as long as the CPU time that they were last seen to take fits into
the greatest delay. What the loop was late in its last turn, but for the time that refusals took, and what the oldest
purchase waits for a script call, is added. (That queueing time tells overload from slow answers: Zhou et al., "Overload
Control for Scaling WeChat Microservices", SoCC 2018.)
"""

import asyncio
import time

# A quiet turn says nothing about the time of a purchase among many, nor does one with much else in it.
BUSY_REQUESTS_MIN, PURCHASES_SHARE_MIN = 16, 0.75
# What a refusal, or an answer from memory, takes of the time of a purchase.
LIGHT = 0.35
MEMORY = 0.8


class OverloadGate:
    """The delay of one process. It measures only while requests come: an idle loop costs nothing."""

    def __init__(self, *, delay_seconds_max: float, refused_at_once_max: int) -> None:
        self._delay_seconds_max = delay_seconds_max
        self._refused_at_once_max = refused_at_once_max
        self._turn_began = self._cpu_began = 0.0
        self._measuring = False
        self._heard = 0
        self._late_seconds = 0.0
        self._purchase_seconds = 0.0
        self._admitted = self._refused = self._remembered = 0

    def heard(self) -> None:
        """A connection had something to read in this turn of the loop."""
        self._heard += 1
        if not self._measuring:
            self._measuring = True
            self._late_seconds = 0.0
            self._turn_began, self._cpu_began = time.monotonic(), time.thread_time()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Runs once in each turn of the loop for as long as requests come."""
        now, cpu = time.monotonic(), time.thread_time()
        self._learn(cpu - self._cpu_began)
        seconds, self._turn_began, self._cpu_began = now - self._turn_began, now, cpu
        self._late_seconds = max(seconds - self._delay_seconds_max - self._refusing_seconds, 0.0)
        self._measuring = self._heard > 0
        self._heard = self._admitted = self._refused = self._remembered = 0
        if self._measuring:
            asyncio.get_running_loop().call_soon(self._turn)

    def _learn(self, cpu_seconds: float) -> None:
        """Take what a turn says about the time of a purchase into the estimate."""
        purchases = self._admitted + self._refused + self._remembered
        if purchases < BUSY_REQUESTS_MIN or purchases < PURCHASES_SHARE_MIN * self._heard:
            return
        seen = cpu_seconds / self._weight
        self._purchase_seconds = MEMORY * (self._purchase_seconds or seen) + (1 - MEMORY) * seen

    @property
    def _weight(self) -> float:
        """How many purchases' work this turn has brought."""
        return self._admitted + LIGHT * (self._refused + self._remembered)

    def admits(self, queued_seconds: float) -> bool:
        """Whether a purchase may go on; the oldest one has waited so long for a script call."""
        if self.refuses(queued_seconds):
            return False
        self._admitted += 1
        return True

    def refuses(self, queued_seconds: float) -> bool:
        """Whether a purchase may not go on; one that may is to be asked for again with `admits`."""
        ahead_seconds = self._weight * self._purchase_seconds if self._measuring else 0.0
        refused = self._late_seconds + ahead_seconds + queued_seconds > self._delay_seconds_max
        self._refused += refused
        return refused

    @property
    def refusing(self) -> bool:
        """Whether a purchase was refused in this turn: the next one most likely will be."""
        return self._refused > 0

    def remembers(self) -> None:
        """A purchase is answered from memory, which costs no more than a refusal: it is always admitted."""
        self._remembered += 1

    @property
    def late(self) -> bool:
        """Whether the last turn took longer than a purchase may be delayed."""
        return self._measuring and self._late_seconds > 0

    @property
    def pressed(self) -> bool:
        """Whether so many are refused in one turn that it does not help: they come back at once."""
        return self._refused > self._refused_at_once_max

    @property
    def _refusing_seconds(self) -> float:
        """What the refusals of this turn took."""
        return LIGHT * self._refused * self._purchase_seconds
