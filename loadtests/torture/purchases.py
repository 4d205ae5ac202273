"""One wish of one buyer: every attempt with what it was told, and what is known of it after all."""

import base64
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from loadtests.client.answers import read_answer
from loadtests.client.http import AnswerUnreadableError, Response
from loadtests.crowd.record import Attempt


class _Statement(msgspec.Struct):
    """What a receipt and a witness both say about the ledger."""

    epoch: int = 0
    seq: int = 0


class _Signed(msgspec.Struct):
    """The signed statement of an answer: a receipt of an order, a witness of a refusal."""

    receipt: str | None = None
    witness: str | None = None


class Told(NamedTuple):
    """One attempt and where in the ledger it was decided, if the answer says so."""

    attempt: Attempt
    epoch: int
    seq: int


@dataclass(slots=True)
class Purchase:
    """What one buyer wants once: so many units of a sale under one key.

    `receipt` is of the first promise. `order_ids` has more than one member only if the shop broke its word.
    """

    number: int
    sale_id: int
    user_id: str
    token: str
    key: str
    quantity: int
    told: list[Told] = field(default_factory=list)
    order_ids: set[str] = field(default_factory=set)
    receipt: str | None = None
    settled: bool = False
    cancelled: bool = False

    @property
    def promised(self) -> bool:
        """Whether the shop has said that there is an order."""
        return bool(self.order_ids)

    @property
    def maybe(self) -> bool:
        """Whether an attempt may have been executed without a word about it."""
        return any(each.attempt.unknown for each in self.told)

    def record(self, attempt: Attempt, response: Response | None) -> None:
        """Note an attempt and what came back."""
        epoch, seq = 0, 0
        if response is not None:
            signed, statement = _read(response.body)
            epoch, seq = statement.epoch, statement.seq
            if attempt.order_id is not None:
                self.order_ids.add(attempt.order_id)
                self.receipt = self.receipt or signed.receipt
        self.told.append(Told(attempt, epoch, seq))
        self.settled = self.settled or attempt.order_id is not None or attempt.final


def _read(body: bytes) -> tuple[_Signed, _Statement]:
    try:
        signed = _decode_signed(body)
        text = signed.receipt or signed.witness
        if text is None:
            return signed, _Statement()
        payload = text.partition(".")[0]
        return signed, _decode_statement(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (msgspec.DecodeError, ValueError):
        return _Signed(), _Statement()


_decode_signed = msgspec.json.Decoder(_Signed).decode
_decode_statement = msgspec.json.Decoder(_Statement).decode


def attempt_of(
    purchase: Purchase, response: Response | None, error_code: str, sent_at: float, received_at: float
) -> Attempt:
    """The attempt as a record has it; `error_code` says why there is no answer."""
    if response is None:
        status, code, order_id = 0, error_code, None
    else:
        answer = read_answer(response)
        status, code, order_id = response.status, answer.code, answer.order_id
        if code == AnswerUnreadableError.code:
            order_id = None
    return Attempt(purchase.number, purchase.user_id, purchase.key, status, code, order_id, sent_at, received_at)
