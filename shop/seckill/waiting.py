"""`Prefer: wait=N` (RFC 7240): a purchase that waits a little for its record, so that the answer is 201 and not 202."""

import re
import time

from shop.order_news import Listener

WAIT_SECONDS_MAX = 10
WAIT = re.compile(rb"wait[ \t]*=[ \t]*(?:\"([^\"]*)\"|([^\s;\"]*))[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL)
WAIT_NAME = re.compile(rb"wait[ \t]*(?:[=;].*)?", re.IGNORECASE | re.DOTALL)
SECONDS = re.compile(rb"[0-9]{1,9}")


def parse_wait(prefer: bytes) -> int:
    """The seconds that a `Prefer` asks to wait, at most `WAIT_SECONDS_MAX`; 0 for none, and for what cannot be read.

    Of a preference that is named twice only the first counts, whatever it says.
    """
    for preference in prefer.split(b","):
        preference = preference.strip()
        if WAIT_NAME.fullmatch(preference):
            found = WAIT.fullmatch(preference)
            seconds = (found[1] or found[2] or b"") if found else b""
            return min(int(seconds), WAIT_SECONDS_MAX) if SECONDS.fullmatch(seconds) else 0
    return 0


class Waiting:
    """One purchase that waits for its record; `spent_seconds` is how long it has."""

    __slots__ = ("_listener", "_seconds", "expect", "spent_seconds")

    def __init__(self, listener: Listener, seconds: int) -> None:
        self.spent_seconds = 0.0
        # The order is listened for before it is reserved: it may be recorded before the reservation's answer is here.
        self.expect = listener.expect
        self._listener = listener
        self._seconds = seconds

    @property
    def applied(self) -> list[tuple[bytes, bytes]]:
        """The header that says that the answer has waited; none if the process stopped instead."""
        return [] if self._listener.stopped else [(b"preference-applied", b"wait=%d" % self._seconds)]

    async def recorded(self) -> bool:
        """Whether the order that was expected last is recorded, in this time and before the process stops.

        It is new, so that whatever is said of it is said of its row.
        """
        started = time.perf_counter()
        recorded = await self._listener.wait(self._seconds)
        self.spent_seconds = time.perf_counter() - started
        return recorded
