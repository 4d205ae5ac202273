"""How many descriptors a process may have, and how many of them its own work needs before any client's."""

import resource
from contextlib import suppress

import structlog

from shop.settings import Settings

# Where the kernel names no bound; more than any process of the shop can use.
DESCRIPTORS_MAX = 1_048_576
# Listeners, pipes, logs, the loop's own, shared metrics, and what a library opens for a moment.
FILES = 48
# Connections of clients beyond the connection cap: those of the probes of a full process.
FOR_PROBES = 16
# The connections of those that follow what Postgres says, and the subscription to the news of orders.
FOLLOWING = 5
CONNECTIONS_MIN = 16

log = structlog.get_logger(__name__)


def raise_limit() -> None:
    """Let this process have as many descriptors as it may give itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS names a hard limit that it does not give.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def reserved(settings: Settings) -> int:
    """The descriptors of an API process that are never a client's."""
    redis = settings.redis_pool_max * (1 if settings.side_redis_url == settings.redis_url else 2)
    return FILES + FOR_PROBES + FOLLOWING + redis + settings.database_pool_max + settings.payment_connections_max


def connections_cap(settings: Settings) -> int:
    """How many connections of clients an API process may have open; a cap by its descriptors is logged."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return settings.connections_max
    kept = reserved(settings)
    cap = min(settings.connections_max, max(limit - kept, CONNECTIONS_MIN))
    if cap < settings.connections_max:
        log.warning(
            "connections_capped", cap=cap, wanted=settings.connections_max, descriptors=limit, reserved=min(kept, limit)
        )
    return cap
