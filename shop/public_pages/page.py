"""One page as bytes, with the tag that names them."""

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from shop.server.answers import CONTENT_TYPE_JSON, Headers

TAG_BYTES = 12
# What a page takes beside its body, which it has once as it is sent and again as the rows that it is drawn from.
PAGE_BYTES, BODIES = 2_048, 4


class Rendered(NamedTuple):
    """A page as it is until `changes_at`, by the clock of Postgres; None for ever."""

    body: bytes
    changes_at: datetime | None = None
    headers: Headers = []  # noqa: RUF012 - nobody adds to it


# Draws the page of a time; one that is aged tells nothing that changes with every purchase.
Render = Callable[[datetime, bool], Rendered]


class Page:
    """A page that was read once. It changes by itself at the hours that its rows name, without another read."""

    def __init__(self, render: Render, *, cache_control: bytes, asked_at: float, clock_ahead: timedelta) -> None:
        """`asked_at` is the monotonic time before it was read; Postgres' clock is `clock_ahead` of this process's."""
        self._render = render
        self._cache_control = (b"cache-control", cache_control)
        self._clock_ahead = clock_ahead
        self.asked_at = asked_at
        self.redraw(time.time())
        self.bytes_kept = PAGE_BYTES + BODIES * len(self.body)
        """About how much memory it takes."""

    def redraw(self, now: float, *, aged: bool = False) -> None:
        """Draw the page of this time (seconds since 1970, by this process's clock)."""
        self._aged = aged
        self.body, changes_at, more = self._render(datetime.fromtimestamp(now, UTC) + self._clock_ahead, aged)
        self._changes_at = None if changes_at is None else (changes_at - self._clock_ahead).timestamp()
        self.tag = b'"%b"' % hashlib.blake2b(self.body, digest_size=TAG_BYTES).hexdigest().encode()
        self.kept: Headers = [(b"etag", self.tag), self._cache_control]
        self.headers: Headers = [CONTENT_TYPE_JSON, *self.kept, *more]

    def is_outdated(self, now: float, *, aged: bool) -> bool:
        """Whether its hour has come, or it has aged since it was drawn: then `redraw` it."""
        return aged is not self._aged or (self._changes_at is not None and now >= self._changes_at)
