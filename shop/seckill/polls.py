"""When a client should ask for its order again: soon, and later the more of them there are."""

import time

from shop.settings import Settings

# What a poll costs before one was measured, and what is believed at most.
COST_SECONDS_FIRST, COST_SECONDS_MAX = 150e-6, 5e-3
# What the request and its answer take, which no measurement of a batch sees.
UNSEEN_SECONDS = 30e-6
# The cost is the mean of about so many polls.
AVERAGED_POLLS = 500


class Polls:
    """Gives every poll that this process asks for a time of its own.

    The next time is `poll_after_ms` from now, or one gap after the last one that was given away, whichever is later,
    and at most `poll_after_ms_max` from now. The gap is so long that polls take `poll_cpu_share` of a core, by what one
    has been measured to cost. So a crowd of n that is accepted at once comes back over n gaps and never faster, until
    the greatest delay crowds it together; and when the crowd is gone the delay is the least one again. (It is the
    generic cell rate algorithm, as in `shop.rate_limit`: there a request that comes early is refused, here it is told
    its time beforehand.)
    """

    def __init__(self, settings: Settings) -> None:
        self._delay_min_seconds = settings.poll_after_ms / 1000
        self._delay_max_seconds = settings.poll_after_ms_max / 1000
        self._share = settings.poll_cpu_share
        self._cost_seconds = COST_SECONDS_FIRST
        self._last = 0.0

    @property
    def gap_seconds(self) -> float:
        """The time between two polls when there are too many for all to come back at once."""
        return self._cost_seconds / self._share

    def measured(self, cpu_seconds: float, *, polls: int) -> None:
        """Take note that so many polls together took so much of the process's core."""
        cost_seconds = min(cpu_seconds / polls + UNSEEN_SECONDS, COST_SECONDS_MAX)
        self._cost_seconds += (cost_seconds - self._cost_seconds) * min(polls / AVERAGED_POLLS, 1.0)

    def after_ms(self) -> int:
        """The `poll_after_ms` of one more answer."""
        now = time.monotonic()
        return round((self.due(now) - now) * 1000)

    def due(self, now: float) -> float:
        """The time for one more poll; both are in seconds of the same clock."""
        earliest = max(now + self._delay_min_seconds, self._last + self.gap_seconds)
        self._last = min(earliest, now + self._delay_max_seconds)
        return self._last
