"""The rule of a purchase: which order a request means, and what each answer of the ledger means to the buyer."""

import time
from collections.abc import Callable

import msgspec

from shop.errors import (
    IdempotencyMismatch,
    Invalid,
    NotEnoughUnits,
    NotReady,
    OverLimit,
    Overloaded,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    ShopError,
    SoldOut,
    UnknownOutcome,
)
from shop.ledger.client import Answer, LoadedSale, ReserveRequest
from shop.ledger.order_ids import keyed_order_id, numbered_order_id, uuid_text
from shop.ledger.receipts import Signer, Witness
from shop.ledger.times import iso_time
from shop.redis import NotSent, OutcomeUnknown, ScriptsNotLoaded
from shop.seckill.group_commit import GroupCommit


class AskPostgres(Exception):
    """The ledger cannot speak for this sale now; only a row in Postgres may still answer a repeat."""


class RolledBack(AskPostgres):
    """The ledger of this epoch has lost an order that this process saw reserved: the sale must be recovered."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """An order as the ledger knows it. `replayed` means that it was there before this request."""

    order_id: str
    quantity: int
    seq: int
    reserved_ms: int
    held: bool
    replayed: bool


async def purchase(
    group: GroupCommit,
    *,
    user_id: str,
    key: str | None,
    quantity: int,
    signer: Signer,
    deadline_seconds: float,
    expect: Callable[[bytes], None] | None = None,
) -> Reservation | ShopError:
    """Reserve units, or find the order that the same request has reserved before.

    Without a key the orders of a user are numbered: the first that is open or new is meant, so a double click is one
    order and a try after a cancel is a new one. `expect` is told of an order before it is asked for: it
    may be recorded before the answer is here. Returns what the ledger refuses, for a crowd is refused; raises a
    ShopError when it was not asked, or its answer is unknown, and AskPostgres.
    """
    sale = group.sale
    if key is not None:
        order_id = order_meant(sale, user_id, key)
        if expect is not None:
            expect(order_id)
        return reservation_of(order_id, quantity, await _ask(group, order_id, user_id, quantity), sale, signer)
    deadline = time.monotonic() + deadline_seconds
    for number in range(1, sale.orders_per_user + 1):
        if time.monotonic() > deadline:
            raise Overloaded("The request took too long and was not executed")
        order_id = numbered_order_id(sale.sale_id, sale.salt, user_id, number)
        if expect is not None:
            expect(order_id)
        answer = await _ask(group, order_id, user_id, quantity)
        if not is_over(answer):
            return reservation_of(order_id, quantity, answer, sale, signer)
    raise OverLimit("All the orders that one buyer may make in this sale are made")


def order_meant(sale: LoadedSale, user_id: str, key: str | None) -> bytes:
    """The order that a purchase asks for first: the one of its key, or the user's first."""
    if key is not None:
        return keyed_order_id(sale.sale_id, sale.salt, user_id, key)
    return numbered_order_id(sale.sale_id, sale.salt, user_id, 1)


async def _ask(group: GroupCommit, order_id: bytes, user_id: str, quantity: int) -> Answer:
    try:
        answer = await group.reserve(ReserveRequest(order_id, user_id, quantity))
    except (NotSent, OutcomeUnknown) as error:
        raise what_failed(error) from error
    return noted(group, answer)


def what_failed(error: Exception) -> Exception:
    """What it means to a purchase that the ledger was not asked, or that its answer is unknown; others stay."""
    if isinstance(error, ScriptsNotLoaded):
        return AskPostgres()
    if isinstance(error, NotSent):
        return NotReady()
    return UnknownOutcome() if isinstance(error, OutcomeUnknown) else error


def noted(group: GroupCommit, answer: Answer) -> Answer:
    """The answer, after the latch has learned from it. Raises AskPostgres if this ledger does not sell."""
    if answer.word == "RESERVED":
        if group.latch.closed:
            group.latch.open()  # There was a unit after all: a poll would notice later.
    elif answer.word == "SOLD_OUT":
        if answer.fields[1] == "0":
            group.latch.close(answer.seq)
    elif answer.word == "BEHIND":
        raise RolledBack(group.sale.epoch)
    elif answer.word in {"NOT_LOADED", "STALE_EPOCH"}:
        raise AskPostgres
    return answer


def is_over(answer: Answer) -> bool:
    """Whether the order that was meant has given its units back: without a key, the buyer's next one is meant."""
    return answer.word in {"REPLAYED", "MISMATCH"} and answer.fields[-1] == "released"


def reservation_of(
    order_id: bytes, quantity: int, answer: Answer, sale: LoadedSale, signer: Signer
) -> Reservation | ShopError:
    """The order that an answer names, or the problem that it means."""
    uuid = uuid_text(order_id)
    if answer.word == "RESERVED":
        return Reservation(uuid, quantity, answer.seq, int(answer.fields[2]), held=True, replayed=False)
    if answer.word == "REPLAYED":
        seq, had, reserved_ms, status = answer.fields
        return Reservation(uuid, int(had), int(seq), int(reserved_ms), held=status == "held", replayed=True)
    return _refusal(uuid, answer, sale, signer)


def _refusal(order_id: str, answer: Answer, sale: LoadedSale, signer: Signer) -> ShopError:
    """The problem that an answer of the ledger means, with a signed witness of it."""
    error = _REFUSALS[answer.word](order_id, answer)
    if answer.word not in {"DROPPED", "LATE", "INVALID", "MISMATCH"}:
        witness = Witness(error.code, sale.sale_id, sale.epoch, answer.seq, int(time.time() * 1000))
        error.extra["witness"] = signer.sign(witness)
    return error


def _mismatch(order_id: str, answer: Answer) -> ShopError:
    return IdempotencyMismatch(f"This was asked before for {answer.fields[1]} units", order_id=order_id)


def _not_open(_: str, answer: Answer) -> ShopError:
    starts_ms = int(answer.fields[1])
    wait = max(starts_ms / 1000 - time.time(), 0.1)
    return SaleNotStarted(retry_after=wait, starts_at=iso_time(starts_ms))


def _sold_out(_: str, answer: Answer) -> ShopError:
    left = int(answer.fields[1])
    return NotEnoughUnits() if left else SoldOut()


_REFUSALS: dict[str, Callable[[str, Answer], ShopError]] = {
    "MISMATCH": _mismatch,
    "INVALID": lambda *_: Invalid("The quantity must be a whole number from 1", pointer="/quantity"),
    "NOT_OPEN": _not_open,
    "PAUSED": lambda *_: SalePaused(),
    "ENDED": lambda _, answer: SaleEnded(ended_at=iso_time(int(answer.fields[1]))),
    "BACKLOG": lambda *_: Overloaded("Too many accepted orders wait to be recorded"),
    "OVER_LIMIT": lambda _, answer: OverLimit(units_held=int(answer.fields[1])),
    "SOLD_OUT": _sold_out,
    "DROPPED": lambda *_: Overloaded("The request waited too long and was not sent"),
    "LATE": lambda *_: Overloaded("The request came too late to the ledger and was not executed"),
}
