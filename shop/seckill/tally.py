"""What the lane counts, kept in plain numbers and handed to the metrics a few times a second.

A counter of the library that several processes share costs more than a microsecond; a purchase would need five.
"""

from bisect import bisect_left
from collections import Counter

from shop import metrics


class Tally:
    """The answers of one route since the last `flush`."""

    def __init__(self, method: str, route: str) -> None:
        self._method = method
        self._route = route
        self._outcomes: Counter[tuple[int, str | None]] = Counter()
        self._buckets = [0] * (len(metrics.SECONDS) + 1)
        self._seconds = 0.0

    def count(self, status: int, outcome: str | None, seconds: float | None = None) -> None:
        """Note one answer: its status, what became of the purchase if it was one, and its time unless it took none."""
        self._outcomes[status, outcome] += 1
        if seconds is None:
            return
        self._buckets[bisect_left(metrics.SECONDS, seconds)] += 1
        self._seconds += seconds

    def flush(self) -> None:
        """Add what was counted to the metrics."""
        outcomes, buckets, seconds = self._outcomes, self._buckets, self._seconds
        self._outcomes, self._buckets, self._seconds = Counter(), [0] * len(buckets), 0.0
        for (status, outcome), answers in outcomes.items():
            metrics.REQUESTS.labels(self._method, self._route, str(status)).inc(answers)
            if outcome is not None:
                metrics.PURCHASES.labels(outcome).inc(answers)
        if outcomes:
            histogram = metrics.REQUEST_SECONDS.labels(self._method, self._route)
            metrics.add_observations(histogram, buckets, seconds)
