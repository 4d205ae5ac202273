"""An answer of the shop as far as a shopper needs it: what it means, which order, and how long to wait."""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from loadtests.client.http import AnswerUnreadableError, Response

RESERVED = "reserved"
REPLAYED = "replayed"
SALE_NOT_STARTED = "sale_not_started"
SOLD_OUT = "sold_out"
NOT_ENOUGH_UNITS = "not_enough_units"
OVER_LIMIT = "over_limit"
SALE_ENDED = "sale_ended"
BARE = "http_"


class _Members(msgspec.Struct, gc=False):
    """What the crowd reads of an order or of a problem document."""

    id: str | None = None
    code: str | None = None
    starts_at: str | None = None


class Answer(NamedTuple):
    """The code of an answer, the order it names, and the wait it asks for in seconds."""

    code: str
    order_id: str | None
    wait_seconds: float | None


_members = msgspec.json.Decoder(_Members)


def read_answer(response: Response) -> Answer:
    """Understand an answer as far as a shopper needs it."""
    try:
        members = _members.decode(response.body)
    except msgspec.DecodeError:
        members = _Members()
    if 200 <= response.status < 300:
        if not members.id:
            return Answer(AnswerUnreadableError.code, None, None)
        return Answer(REPLAYED if response.status == 200 else RESERVED, members.id, None)
    code = members.code or f"{BARE}{response.status}"
    wait_seconds = _retry_after(response)
    if code == SALE_NOT_STARTED and members.starts_at:
        wait_seconds = _seconds_until(members.starts_at) or wait_seconds
    return Answer(code, None, wait_seconds)


def _retry_after(response: Response) -> float | None:
    value = response.headers.get(b"retry-after", b"")
    return float(value) if value.isdigit() else None


def _seconds_until(moment: str) -> float | None:
    """None for a moment that has passed: a shop that says "not yet" then has a slower clock, and knows better."""
    try:
        seconds = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return seconds if seconds > 0 else None
