"""How much longer a program takes on this machine just now than it would alone: others want its cores as well."""

import math
import statistics
import time
from dataclasses import dataclass, field

STEPS = 1_000_000
INTERVAL_SECONDS = 1.0


@dataclass
class Slowdown:
    """A fixed piece of work, done again and again: how long each took, beside the least CPU that it has ever used."""

    cpu_seconds: float = math.inf
    took_seconds: list[float] = field(default_factory=list)
    _due_at: float = 0.0

    def begin_round(self) -> None:
        """Forget how long it took, and not what it needs."""
        self.took_seconds.clear()
        self._due_at = 0.0

    def probe(self) -> None:
        """Do the work, unless it was done within the last second: it takes 15 ms and more from the crowd's process."""
        began, cpu_began = time.perf_counter(), time.thread_time()
        if began < self._due_at:
            return
        sum(range(STEPS))
        self.cpu_seconds = min(self.cpu_seconds, time.thread_time() - cpu_began)
        self.took_seconds.append(time.perf_counter() - began)
        self._due_at = began + INTERVAL_SECONDS

    @property
    def factor(self) -> float:
        """How many times longer it took in this round, in the mean; 1 on a machine that has room."""
        if not self.took_seconds:
            return 1.0
        return max(1.0, statistics.fmean(self.took_seconds) / self.cpu_seconds)
