"""Fair shares of the loop's time among tasks of several kinds, by deficit round robin over their steps.

A task that waits for nothing runs its next step in the loop's next iteration, so an iteration is as long as the steps
of all tasks that are ready, and whoever else waits for the loop waits for them. Here each kind has a balance of
seconds: a quantum is added in each iteration, a step takes what it used, and while a kind is in debt its tasks wait
for their next step, the oldest first. No kind is made to wait while the loop has nothing else to do: iterations
follow each other at once. (M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin", SIGCOMM
1995; a step cannot be interrupted, so a kind may exceed its quantum by one.)
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from shop.steps import stepwise

Result = TypeVar("Result")

# The weight of the past in the moving average (EWMA) of what a step takes.
EWMA_DECAY = 0.9


class Share:
    """What one kind of tasks may use of the loop."""

    def __init__(self, scheduler: "Scheduler", quantum_seconds: float) -> None:
        self._scheduler = scheduler
        self._quantum_seconds = quantum_seconds
        self._balance = quantum_seconds
        self._step_seconds = 0.0
        self._ready: deque[asyncio.Future[None]] = deque()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await a coroutine, each step of it within this share. Returns and raises what the coroutine does."""
        return await stepwise(work, clock=time.perf_counter, spent=self._spend, pause=self._pause)

    def replenish(self) -> bool:
        """Add the quantum of an iteration, and resume as many as will use it; whether it needs another one."""
        self._balance = min(self._balance + self._quantum_seconds, self._quantum_seconds)
        expected = self._balance
        while self._ready and expected > 0:
            ready = self._ready.popleft()
            if not ready.done():
                ready.set_result(None)
                expected -= self._step_seconds
        return bool(self._ready) or self._balance < self._quantum_seconds

    def _pause(self) -> "asyncio.Future[None] | None":
        """What the next step has to wait for while the kind is in debt, or others of it wait already."""
        if self._balance > 0 and not self._ready:
            return None
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.append(ready)
        return ready

    def _spend(self, seconds: float) -> None:
        self._balance -= seconds
        self._step_seconds = EWMA_DECAY * self._step_seconds + (1 - EWMA_DECAY) * seconds
        self._scheduler.wake()


class Scheduler:
    """The shares of one loop. It costs nothing while no task of any share runs."""

    def __init__(self) -> None:
        self._shares: list[Share] = []
        self._scheduled = False

    def share(self, quantum_seconds: float) -> Share:
        """A new share, which is added so many seconds in each iteration of the loop."""
        share = Share(self, quantum_seconds)
        self._shares.append(share)
        return share

    def wake(self) -> None:
        """A share has used something: replenish it from the next iteration on."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._replenish)

    def _replenish(self) -> None:
        needed = [share.replenish() for share in self._shares]
        self._scheduled = any(needed)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._replenish)
