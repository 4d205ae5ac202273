"""What the payment provider may say: intents, refunds and events, as the shop believes them.

What an answer says is checked here once, so that nothing of it can make a row unwritable later. An event that breaks
the contract is told as an `UnreadableEvent`: it hides no other.
"""

import re
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

SEQ_MAX = 2**53 - 1  # a larger number is not the same to every reader of JSON
REFUNDS_MAX = 1_000
EVENT_ID = r"^[A-Za-z0-9_-]{1,128}$"

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00]*$")]
Minor = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seq = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Time = Annotated[datetime, Meta(tz=True)]
Part = TypeVar("Part")

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


class ProviderRefund(msgspec.Struct, frozen=True):
    """Money that goes back; `key` is the one it was asked for with."""

    id: Id
    key: Text
    amount_minor: Minor


class Intent(msgspec.Struct, frozen=True):
    """A payment at the provider, as it was at one moment. It can be paid while it is `open`."""

    id: Id
    order_id: Text
    amount_minor: Minor
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
    status: Literal["open", "captured", "cancelled", "failed", "expired"]
    captured_minor: Minor
    refunded_minor: Minor
    refunds: Annotated[tuple[ProviderRefund, ...], Meta(max_length=REFUNDS_MAX)]
    attempts: Count
    """How often somebody tried to pay it, the try that paid it included."""
    pay_url: Annotated[str, Meta(max_length=2_000, pattern=r"^https?://[!-~]+$")]
    created_at: Time
    decline_code: Text | None = None
    """Why the last try was declined, if the provider says so."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended without money."""
        return self.status in ("cancelled", "failed", "expired")


class ProviderEvent(msgspec.Struct, frozen=True):
    """What happened to an intent, as a webhook or the list tells it; its `type` may be new to us."""

    id: Annotated[str, Meta(pattern=EVENT_ID)]
    seq: Seq
    type: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
    created_at: Time
    data: Intent


class UnreadableEvent(msgspec.Struct, frozen=True):
    """An event that breaks the contract: what of it can be read, and why the rest cannot."""

    reason: str
    id: str | None = None
    seq: int | None = None
    intent_id: str = ""


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]


class _Id(msgspec.Struct):
    id: Annotated[str, Meta(pattern=EVENT_ID)]


class _Seq(msgspec.Struct):
    seq: Seq


class _OfIntent(msgspec.Struct):
    class Data(msgspec.Struct):
        id: Id

    data: Data


def read_events(page: bytes) -> list[ProviderEvent | UnreadableEvent]:
    """The events of a page of the provider's list, each by itself. Raises ValueError for what is no such page."""
    try:
        return [read_event(each) for each in msgspec.json.decode(page, type=_Page).data]
    except (ValueError, RecursionError):
        return [read_event(each) for each in _split(page)]


def read_intent(sent: bytes) -> Intent:
    """An intent in JSON. Raises ValueError or RecursionError."""
    return msgspec.json.decode(sent, type=Intent)


def read_refund(sent: bytes) -> ProviderRefund:
    """A refund in JSON. Raises ValueError or RecursionError."""
    return msgspec.json.decode(sent, type=ProviderRefund)


def read_event(sent: msgspec.Raw | bytes) -> ProviderEvent | UnreadableEvent:
    """An event in JSON, or as much of it as can be read."""
    try:
        return msgspec.json.decode(sent, type=ProviderEvent)
    except (ValueError, RecursionError) as error:
        named, placed, of_intent = _part(sent, _Id), _part(sent, _Seq), _part(sent, _OfIntent)
        return UnreadableEvent(
            reason=str(error)[:200],
            id=named.id if named else None,
            seq=placed.seq if placed else None,
            intent_id=of_intent.data.id if of_intent else "",
        )


def _split(page: bytes) -> list[bytes]:
    """The members of `data`, cut apart without reading them: one that is no JSON at all hides no other."""
    found: list[bytes] = []
    depth, start, is_data = 0, None, False
    for token in TOKEN.finditer(page):
        word = token.group()
        if word[:1] == b'"':
            is_data = depth == 1 and word == b'"data"'
        elif word in b"[{":
            depth += 1
            if is_data and depth == 2 and word == b"[" and start is None:
                start = token.end()
        elif start is not None and depth == 2 and word in b",]":
            found.append(page[start : token.start()])
            start = token.end()
            if word == b"]":
                return [each for each in found if each.strip()]
        elif word in b"]}":
            depth -= 1
        else:
            is_data = is_data and depth != 1
    raise ValueError("no page of events")


def _part(sent: msgspec.Raw | bytes, kind: type[Part]) -> Part | None:
    try:
        return msgspec.json.decode(sent, type=kind)
    except (ValueError, RecursionError):
        return None
