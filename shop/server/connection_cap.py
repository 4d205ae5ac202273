"""The connection cap of a process: which connections are accepted, and which are closed when it is reached.

No address may have more than its share. While the cap is reached and others wait in the backlog, idle connections are
closed, the oldest first. A few are accepted beyond the cap for the probes: a request on one of these is
answered if it asks whether the process is alive or ready, and refused with 503 if it asks for anything else.
"""

from collections import Counter
from functools import lru_cache
from typing import Any
from uuid import uuid4

from shop.client_addresses import counted_as
from shop.errors import Overloaded
from shop.server.answers import CONTENT_TYPE_PROBLEM, PreparedProblem
from shop.server.connection import Connection, TimeLimits
from shop.server.heads import NO_HOST
from shop.settings import Settings

PROBES = frozenset({"/livez", "/readyz"})
# A client sends its request with the connection, or soon after. Proxies keep an idle one for less than the second.
UNUSED_SECONDS, IDLE_SECONDS = 0.25, 5.0
CLOSED_AT_ONCE = 64
ADDRESSES_REMEMBERED = 4_096
FULL = PreparedProblem(Overloaded("All connections are taken"))
HEADERS = b"%b: %b\r\nretry-after: 1\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n\r\n" % CONTENT_TYPE_PROBLEM


class ConnectionCap:
    """The open connections of one process, the oldest first; `limit` is how many there may be."""

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.connections_max
        self._settings = settings
        self._proxies = settings.proxies
        idle_seconds = min(IDLE_SECONDS, settings.keep_alive_seconds)
        self._idle_limits = TimeLimits(settings.request_seconds_max, idle_seconds)
        self._unused_limits = TimeLimits(settings.request_seconds_max, UNUSED_SECONDS)
        self._of_address: Counter[str] = Counter()
        self._open: dict[Connection, None] = {}
        self._beyond_cap: dict[Connection, None] = {}
        self._counted = lru_cache(ADDRESSES_REMEMBERED)(self._counted_as)
        self._closed_at = 0.0

    def admit(self, host: str | None) -> bool:
        """Whether one more connection of this host may be accepted; it is counted, until `uncount` or `closed`.

        Trusted proxies are not counted: each is many clients.
        """
        address = self._counted(host)
        if address is None:
            return True
        if self._of_address[address] >= min(self._settings.connections_per_address_max, max(1, self.limit // 2)):
            return False
        self._of_address[address] += 1
        return True

    def uncount(self, host: str | None) -> None:
        """A connection that was admitted has failed before it was open."""
        address = self._counted(host)
        if address is not None and address in self._of_address:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def opened(self, connection: Connection) -> None:
        """Count a connection as open."""
        self._open[connection] = None
        if len(self._open) > self.limit:
            self._beyond_cap[connection] = None

    def closed(self, connection: Connection) -> None:
        """A connection is closed: the first one beyond the cap is within it now."""
        if connection not in self._open:
            return
        del self._open[connection]
        self.uncount(connection.accepted_from)
        if connection in self._beyond_cap:
            del self._beyond_cap[connection]
        elif self._beyond_cap:
            del self._beyond_cap[next(iter(self._beyond_cap))]

    def is_beyond(self, connection: Connection) -> bool:
        """Whether a connection was accepted for probes alone."""
        return bool(self._beyond_cap) and connection in self._beyond_cap

    def refusal(self, connection: Connection, scope: dict[str, Any]) -> bytes | None:
        """The refusal to a request beyond the cap, without the server's own head; None for a probe."""
        if not self.is_beyond(connection) or scope["path"] in PROBES:
            return None
        request_id = uuid4().hex.encode()
        body = FULL.body("", request_id)
        return HEADERS % (len(body), request_id) + (b"" if scope["method"] == "HEAD" else body)

    def close_idle(self, now: float) -> None:
        """Close idle connections; call it while others wait in the listen backlog."""
        if now - self._closed_at < UNUSED_SECONDS:
            return
        self._closed_at, closed = now, 0
        for connection in tuple(self._open):
            unused = connection.head.host == NO_HOST or connection in self._beyond_cap
            connection.cut_if_late(now, self._unused_limits if unused else self._idle_limits)
            closed += connection.transport.is_closing()
            if closed >= CLOSED_AT_ONCE:
                return

    def _counted_as(self, host: str | None) -> str | None:
        if host is None or self._proxies.trust_peer(host):
            return None
        return counted_as(host, ipv6_prefix_bits=self._settings.ipv6_client_prefix_bits)
