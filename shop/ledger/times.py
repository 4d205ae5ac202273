"""Moments of the ledger as text."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=1024)
def iso_time(milliseconds: int) -> str:
    """A moment of the ledger as ISO-8601 UTC. All purchases of a batch are of the same one."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"
