"""When a client should ask for its order again: soon, and later the more of them there are."""

import time

from shop.settings import Settings


class Polls:
    """Gives every poll that this process asks for a time of its own.

    The next time is `poll_after_ms` from now, or 1/`polls_per_second_max` after the last one that was given away,
    whichever is later, and at most `poll_after_ms_max` from now. So a crowd of n that is accepted at once comes back
    over n/`polls_per_second_max` seconds and never faster, until the greatest delay crowds it together; and when the
    crowd is gone the delay is the least one again. (It is the generic cell rate algorithm, as in `shop.rate_limit`:
    there a request that comes early is refused, here it is told its time beforehand.)
    """

    def __init__(self, settings: Settings) -> None:
        self._delay_min_seconds = settings.poll_after_ms / 1000
        self._delay_max_seconds = settings.poll_after_ms_max / 1000
        self._gap_seconds = 1 / settings.polls_per_second_max
        self._last = 0.0

    def after_ms(self) -> int:
        """The `poll_after_ms` of one more answer."""
        now = time.monotonic()
        return round((self.due(now) - now) * 1000)

    def due(self, now: float) -> float:
        """The time for one more poll; both are in seconds of the same clock."""
        earliest = max(now + self._delay_min_seconds, self._last + self._gap_seconds)
        self._last = min(earliest, now + self._delay_max_seconds)
        return self._last
