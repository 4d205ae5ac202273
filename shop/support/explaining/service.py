"""Explain a refusal by its witness, or an order by its receipt: what the shop has signed, beside what is recorded.

It reads, and keeps nothing. A contradiction is a proof that whoever asks holds against the shop, so it rings the alarm.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import redis.asyncio as aioredis
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.database import see_one_moment
from shop.errors import (
    NotRecordedYet,
    OrderNotFound,
    RefusalNotRecordedYet,
    SaleNotFound,
    StatementForged,
    StatementOfAnotherSale,
)
from shop.ledger.receipts import Forged, Receipt, Signer, Statement, Witness
from shop.orders import repository as orders
from shop.orders.batch import ORDER_KINDS
from shop.orders.models import Order
from shop.rate_limit import RateLimiter, rate_limiter
from shop.sales import repository as sales
from shop.sales.models import LedgerPosition, LedgerRow, Sale, SaleEpoch, SaleStatus
from shop.sales.phase import phase_of
from shop.settings import Settings
from shop.support.explaining import judging, repository
from shop.support.explaining.judging import ABOUT_UNITS, MEANINGS, Judgement
from shop.support.explaining.schemas import Explanation, OwnOrder, OwnUnits, RanOut, SaleRules, Verdict

ORDERS_MAX = 100
RESERVED = "reserved"

log = structlog.get_logger(__name__)


class _Moment(NamedTuple):
    """A sale at the entry of its ledger that a statement names; no `entry` before the first one, or if it is lost."""

    sale: Sale
    epoch: SaleEpoch | None
    at: LedgerPosition
    entry: LedgerRow | None

    @property
    def balance(self) -> int:
        if self.entry is not None:
            return self.entry.balance
        return 0 if self.epoch is None else self.epoch.opening_balance

    @property
    def is_lost(self) -> bool:
        nothing_there = self.epoch is None or (self.entry is None and self.at.seq > 0)
        return nothing_there and self.at.epoch < self.sale.epoch


def explain_limiter(redis: aioredis.Redis, settings: Settings) -> RateLimiter:
    """Explanations are counted by themselves: they cost Postgres a few queries each."""
    return rate_limiter(
        redis, settings, name="explain", rate_per_second=settings.explain_rate_per_second, burst=settings.explain_burst
    )


def read_statement(kind: type[Statement], text: str, *, sale_id: int, settings: Settings) -> Statement:
    """The signed statement. Raises StatementForged, or StatementOfAnotherSale."""
    try:
        statement = Signer(settings.secret).read(kind, text)
    except Forged as error:
        raise StatementForged(f"This is no {kind.__name__.lower()} of this shop") from error
    if statement.sale_id != sale_id:
        raise StatementOfAnotherSale(f"It is of sale {statement.sale_id}", sale_id=statement.sale_id)
    return statement


async def explain_refusal(session: AsyncSession, witness: Witness, *, user_id: str) -> Explanation:
    """Why this was refused. Raises SaleNotFound, or RefusalNotRecordedYet while its entry is on its way to Postgres."""
    await see_one_moment(session)
    moment = await _moment(session, witness, RefusalNotRecordedYet)
    judgement = _unreadable(moment) or await judging.judge(session, moment.sale, witness, moment.balance)
    about_units = witness.code in ABOUT_UNITS and not moment.is_lost
    return await _explanation(
        session,
        moment,
        judgement,
        user_id=user_id,
        code=witness.code,
        meaning=MEANINGS.get(witness.code, witness.code),
        told_ms=witness.at_ms,
        units_left=moment.balance if about_units else None,
        ran_out=await _ran_out(session, moment) if about_units else None,
        order_id=None,
    )


async def explain_receipt(session: AsyncSession, receipt: Receipt, *, user_id: str) -> Explanation:
    """What became of what was promised. Raises OrderNotFound for another's receipt, SaleNotFound, or NotRecordedYet."""
    if receipt.user_id != user_id:
        raise OrderNotFound
    await see_one_moment(session)
    moment = await _moment(session, receipt, NotRecordedYet)
    order = await orders.find(session, UUID(receipt.order_id), user_id)
    judgement = _promise(moment, receipt, order)
    return await _explanation(
        session,
        moment,
        judgement,
        user_id=user_id,
        code=RESERVED,
        meaning=f"Units reserved for you: {receipt.quantity}, as order {receipt.order_id}.",
        told_ms=receipt.reserved_ms,
        units_left=None,
        ran_out=None,
        order_id=None if order is None else order.id,
    )


async def _moment(session: AsyncSession, statement: Receipt | Witness, too_new: type[NotRecordedYet]) -> _Moment:
    sale = await sales.find(session, statement.sale_id)
    if sale is None or sale.status == SaleStatus.DRAFT:
        raise SaleNotFound
    at = LedgerPosition(statement.epoch, statement.seq)
    epoch = await sales.find_epoch(session, sale.id, at.epoch)
    if at > (sale.epoch, sale.watermark):
        raise too_new(f"Postgres has the ledger up to entry {sale.watermark} of epoch {sale.epoch}")
    return _Moment(sale, epoch, at, await repository.entry(session, sale.id, at))


def _unreadable(moment: _Moment) -> Judgement | None:
    """The judgement where there is no entry to compare with."""
    if moment.is_lost:
        return judging.lost(moment.at.seq)
    if moment.entry is None:
        return judging.missing(moment.at.seq) if moment.at.seq > 0 else None
    return judging.quarantined(moment.at.seq) if moment.entry.quarantined is not None else None


def _promise(moment: _Moment, receipt: Receipt, order: Order | None) -> Judgement:
    if order is not None:
        where = (
            "" if (order.epoch, order.seq) == moment.at else f", honoured as entry {order.seq} of epoch {order.epoch}"
        )
        return Judgement(Verdict.AGREES, f"You have this order{where}")
    entry = moment.entry
    if moment.is_lost:
        where = f"show this receipt at /v1/orders/{receipt.order_id}, which brings it back if that is still possible"
        return Judgement(Verdict.LOST, f"{judging.lost(moment.at.seq).reason}: {where}")
    if unreadable := _unreadable(moment):
        return unreadable
    if entry is not None and entry.kind in ORDER_KINDS and str(entry.order_id) == receipt.order_id:
        return Judgement(Verdict.CONTRADICTS, "The ledger has the reservation, and there is no order")
    return Judgement(Verdict.CONTRADICTS, f"Entry {moment.at.seq} of the ledger is not this reservation")


async def _ran_out(session: AsyncSession, moment: _Moment) -> RanOut | None:
    if moment.epoch is not None and moment.epoch.opening_balance == 0:
        seq, when = 0, moment.epoch.created_at
    elif found := await repository.ran_out(session, moment.sale.id, moment.at):
        seq, when = found.seq, found.at
    else:
        return None
    moved = await repository.moved_after(session, moment.sale.id, LedgerPosition(moment.at.epoch, seq))
    return RanOut(
        seq=seq,
        at=when,
        units_returned=moved.returned,
        units_sold_again=moved.sold,
        counted_to_seq=moved.counted_to_seq,
        complete=moved.complete,
    )


async def _explanation(
    session: AsyncSession,
    moment: _Moment,
    judgement: Judgement,
    *,
    user_id: str,
    code: str,
    told_ms: int,
    **told: object,
) -> Explanation:
    sale, at = moment.sale, moment.at
    if judgement.verdict is Verdict.CONTRADICTS:
        metrics.CONTRADICTIONS.labels(code).inc()
        log.error(
            "statement_contradicts_ledger",
            sale_id=sale.id, epoch=at.epoch, seq=at.seq, code=code, balance=moment.balance, reason=judgement.reason,
        )  # fmt: skip
    found = await repository.orders_of(session, sale.id, user_id, limit=ORDERS_MAX + 1)
    return Explanation.model_validate(
        {
            "sale_id": sale.id,
            "code": code,
            "told_at": datetime.fromtimestamp(told_ms / 1000, UTC),
            "epoch": at.epoch,
            "seq": at.seq,
            "verdict": judgement.verdict,
            "reason": judgement.reason,
            "rules": SaleRules(
                phase=phase_of(sale, await sales.database_time(session)),
                starts_at=sale.starts_at,
                ends_at=sale.ends_at,
                units_per_user=sale.units_per_user,
                orders_per_user=sale.orders_per_user,
            ),
            "mine": await _own_units(session, sale, at, found),
            **told,
        }
    )


async def _own_units(session: AsyncSession, sale: Sale, at: LedgerPosition, found: Sequence[Order]) -> OwnUnits:
    back = await repository.releases(session, sale.id, [order.id for order in found])

    def live_then(order: Order) -> bool:
        return (order.epoch or 0, order.seq or 0) <= at and (order.id not in back or back[order.id] > at)

    return OwnUnits(
        units_then=sum(order.quantity for order in found if live_then(order)),
        units_now=sum(order.quantity for order in found if order.released_at is None),
        orders=[OwnOrder.model_validate(order, from_attributes=True) for order in found[:ORDERS_MAX]],
        has_more=len(found) > ORDERS_MAX,
    )
