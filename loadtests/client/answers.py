"""An answer of the shop as far as a shopper needs it: what it means, which order, how long to wait, what was signed."""

import base64
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
    """What a shopper reads of an order or of a problem document."""

    id: str | None = None
    code: str | None = None
    starts_at: str | None = None
    receipt: str | None = None
    witness: str | None = None


class Answer(NamedTuple):
    """The code of an answer, the order it names, the wait it asks for in seconds, and its receipt or witness."""

    code: str
    order_id: str | None = None
    wait_seconds: float | None = None
    statement: str | None = None


class Position(NamedTuple):
    """Right after this event of this epoch; number 0 is the beginning of the epoch."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


class _Statement(msgspec.Struct, gc=False):
    """What a receipt and a witness both say about the ledger."""

    epoch: int
    seq: int


_members = msgspec.json.Decoder(_Members)
_statement = msgspec.json.Decoder(_Statement)


def read_answer(response: Response) -> Answer:
    """Understand an answer as far as a shopper needs it."""
    try:
        members = _members.decode(response.body)
    except msgspec.DecodeError:
        members = _Members()
    if 200 <= response.status < 300:
        if not members.id:
            return Answer(AnswerUnreadableError.code)
        return Answer(REPLAYED if response.status == 200 else RESERVED, members.id, statement=members.receipt)
    code = members.code or f"{BARE}{response.status}"
    wait_seconds = _retry_after(response)
    if code == SALE_NOT_STARTED and members.starts_at:
        wait_seconds = _seconds_until(members.starts_at) or wait_seconds
    return Answer(code, None, wait_seconds, members.witness)


def read_position(statement: str | None) -> Position | None:
    """Where an answer was decided, if it says so; the signature of its receipt or witness is not looked at."""
    payload = (statement or "").partition(".")[0]
    try:
        said = _statement.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:  # It is not base64, not JSON, or no statement.
        return None
    return Position(said.epoch, said.seq)


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
