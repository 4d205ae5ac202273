"""Moments of the ledger as text."""

from datetime import UTC, datetime
from functools import lru_cache


def iso_time(milliseconds: int) -> str:
    """A moment of the ledger as ISO-8601 UTC."""
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """The part that a thousand purchases of the same second share."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
