"""The overload gate: whether a purchase is admitted, by how long it would be delayed in this process.

The delay is measured, not guessed from a number of requests. A turn of the event loop reads what has come and runs what
was read before; in it, purchases are admitted for as long as the CPU time that they were last seen to take fits into
the greatest delay. What the loop was late in its last turn, and what the oldest purchase waits for a script call, is
added. (That queueing time tells overload from slow answers: Zhou et al., "Overload Control for Scaling WeChat
Microservices", SoCC 2018.)
"""

import asyncio
import time

# How many purchases an estimate of their time is made from.
PURCHASES_ENOUGH = 64
# A turn that mostly refused tells nothing about it.
REFUSED_SHARE_MAX = 4
PRESSED_AFTER_TURNS = 3


class OverloadGate:
    """The delay of one process. It measures only while requests come: an idle loop costs nothing."""

    def __init__(self, *, delay_seconds_max: float) -> None:
        self._delay_seconds_max = delay_seconds_max
        self._turn_began = self._cpu_began = 0.0
        self._measuring = False
        self._heard = False
        self._late_seconds = 0.0
        self._purchase_seconds = 0.0
        self._seen_seconds, self._seen_purchases = 0.0, 0
        self._admitted = 0
        self._refused = 0
        self._closed_turns = 0

    def heard(self) -> None:
        """A socket had something to read in this turn of the loop."""
        self._heard = True
        if not self._measuring:
            self._measuring = True
            self._late_seconds, self._closed_turns = 0.0, 0
            self._turn_began, self._cpu_began = time.monotonic(), time.thread_time()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Runs once in each turn of the loop for as long as requests come."""
        now, cpu = time.monotonic(), time.thread_time()
        self._learn(cpu - self._cpu_began)
        seconds, self._turn_began, self._cpu_began = now - self._turn_began, now, cpu
        self._closed_turns = self._closed_turns + 1 if self._refused and not self._admitted else 0
        self._late_seconds = max(seconds - self._delay_seconds_max, 0.0)
        self._admitted = self._refused = 0
        self._measuring, self._heard = self._heard, False
        if self._measuring:
            asyncio.get_running_loop().call_soon(self._turn)

    def _learn(self, cpu_seconds: float) -> None:
        """Take what a turn says about the time of a purchase into the next estimate; waiting for the next is none."""
        if self._refused > REFUSED_SHARE_MAX * self._admitted:
            return
        self._seen_seconds += cpu_seconds
        self._seen_purchases += self._admitted
        if self._seen_purchases >= PURCHASES_ENOUGH:
            self._purchase_seconds = self._seen_seconds / self._seen_purchases
            self._seen_seconds, self._seen_purchases = 0.0, 0

    def admits(self, queued_seconds: float) -> bool:
        """Whether a purchase may go on; the oldest one has waited so long for a script call."""
        ahead_seconds = self._admitted * self._purchase_seconds if self._measuring else 0.0
        if self._late_seconds + ahead_seconds + queued_seconds > self._delay_seconds_max:
            self._refused += 1
            return False
        self._admitted += 1
        return True

    @property
    def late(self) -> bool:
        """Whether the last turn took longer than a purchase may be delayed."""
        return self._measuring and self._late_seconds > 0

    @property
    def pressed(self) -> bool:
        """Whether the loop stays late although it does nothing but refuse: then refusing does not help."""
        if self._closed_turns >= PRESSED_AFTER_TURNS:
            return True
        # The loop reads on and on before it runs anything, if those who were refused come back at once.
        return self._measuring and time.monotonic() - self._turn_began > PRESSED_AFTER_TURNS * self._delay_seconds_max
