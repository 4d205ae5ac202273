"""Whether a signed refusal and the recorded ledger can both be true. Where they cannot, it is a proof against the shop.

Only what follows from the entries themselves is called a contradiction; the clocks of two servers prove nothing.
"""

from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from shop.errors import NotEnoughUnits, OverLimit, Overloaded, SaleEnded, SaleNotStarted, SalePaused, SoldOut
from shop.ledger.receipts import Witness
from shop.sales.models import LedgerPosition, Sale
from shop.support.explaining import repository
from shop.support.explaining.schemas import Verdict

ABOUT_UNITS = frozenset({SoldOut.code, NotEnoughUnits.code})
MEANINGS = {
    SoldOut.code: "All units were taken.",
    NotEnoughUnits.code: "Some units were left, but fewer than were asked for.",
    OverLimit.code: "More was asked for than one buyer may have in this sale, over all their orders.",
    SaleNotStarted.code: "The sale had not started yet.",
    SaleEnded.code: "The sale was over.",
    SalePaused.code: "The sale was paused.",
    Overloaded.code: "Too many accepted orders waited to be recorded, so no other one was accepted.",
}


class Judgement(NamedTuple):
    """The verdict, and the sentence that says why."""

    verdict: Verdict
    reason: str


def lost(seq: int) -> Judgement:
    """What was decided in an epoch that ended before this entry was recorded."""
    return Judgement(Verdict.LOST, f"The ledger of this epoch was lost before its entry {seq} was recorded")


def quarantined(seq: int) -> Judgement:
    """What was decided at an entry that could not be recorded as it was."""
    return Judgement(Verdict.UNCHECKED, f"Entry {seq} could not be read and was set aside; its balance is a guess")


def missing(seq: int) -> Judgement:
    """What was decided at an entry that must be there."""
    return Judgement(Verdict.CONTRADICTS, f"Later entries are recorded, but there is no entry {seq}")


async def judge(session: AsyncSession, sale: Sale, witness: Witness, balance: int) -> Judgement:
    """Compare a refusal with the ledger, which had `balance` units left when it was decided."""
    at = LedgerPosition(witness.epoch, witness.seq)
    match witness.code:
        case SoldOut.code:
            return _sold_out(balance)
        case NotEnoughUnits.code:
            return _not_enough(balance, sale.units_per_user)
        case SaleNotStarted.code:
            sold = await repository.sold_by(session, sale.id, at)
            return _contradicts("The sale had sold units already") if sold else _agrees("Nothing had been sold yet")
        case SaleEnded.code:
            sold = await repository.next_of(session, sale.id, at, {"reserved", "window"}) == "reserved"
            return _contradicts("A unit was sold after that") if sold else _agrees("No purchase is recorded after that")
        case SalePaused.code:
            return _paused(await repository.last_of(session, sale.id, at, {"pause", "resume"}))
        case OverLimit.code:
            return Judgement(Verdict.UNCHECKED, "A refusal names neither its buyer nor how much was asked for")
        case _:
            return Judgement(Verdict.UNCHECKED, "The ledger does not record what this depended on")


def _sold_out(balance: int) -> Judgement:
    if balance == 0:
        return _agrees("The ledger had no unit left")
    return _contradicts(f"Units left in the ledger: {balance}")


def _not_enough(balance: int, units_per_user: int) -> Judgement:
    """A wish for more than `units_per_user` would have been refused for the limit."""
    if 0 < balance < units_per_user:
        return _agrees(f"Units left in the ledger: {balance}, of which {units_per_user} could be asked for")
    return _contradicts(f"Units left in the ledger: {balance}, of which at most {units_per_user} could be asked for")


def _paused(last: str | None) -> Judgement:
    if last is None:
        return Judgement(Verdict.UNCHECKED, "The pause began before the entries that are looked at")
    if last == "pause":
        return _agrees("The sale had been paused and not resumed")
    return _contradicts("The sale had been resumed and not paused again")


def _agrees(reason: str) -> Judgement:
    return Judgement(Verdict.AGREES, reason)


def _contradicts(reason: str) -> Judgement:
    return Judgement(Verdict.CONTRADICTS, reason)
