"""Starting a payment, and giving money back: what buyers and admins may ask for."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from uuid import UUID

import redis.asyncio as aioredis
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop import metrics
from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.database import Database, after_commit
from shop.errors import (
    Invalid,
    OrderClosed,
    OrderNotFound,
    OrderNotPaid,
    OrderPaid,
    PaymentOver,
    ProviderUnavailable,
)
from shop.orders import repository as orders
from shop.orders.life import By, move
from shop.orders.models import Order, OrderStatus
from shop.orders.release import owed_to_sales, release
from shop.orders.service import in_ledger
from shop.orders.waiting import wait_recorded
from shop.payments import repository
from shop.payments.contract import Intent
from shop.payments.events import apply_answer, show
from shop.payments.gateway import Gateway, ProviderRefused
from shop.payments.models import Payment, PaymentStatus
from shop.payments.provider import cancel, create
from shop.payments.schemas import MoneyOfCurrency, MoneyReport, PaymentRead, RefundRead, RefundRequest
from shop.payments.totals.repository import Money
from shop.sales.repository import database_time
from shop.settings import Settings

START_KEYS_MAX = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Started:
    """A payment, and whether an earlier request with this key has started it."""

    payment: PaymentRead
    replayed: bool


async def start(
    database: Database,
    client: aioredis.Redis,
    gateway: Gateway,
    *,
    order_id: UUID,
    buyer_id: str,
    settings: Settings,
    key: str | None = None,
    return_url: str | None = None,
) -> Started:
    """The payment of an order that waits for it. An order has one payment, so starting it again is the same.

    Only when the provider has ended it unpaid, starting it again begins another attempt. The hold is absolute: nothing
    here extends it. Raises OrderNotFound, OrderPaid, OrderClosed, PaymentOver, NotRecordedYet while the order's row is
    on its way, or ProviderUnavailable.
    """
    order, payment = await _wanted(database, client, order_id=order_id, buyer_id=buyer_id, settings=settings)
    if payment.status == PaymentStatus.CANCELLED:
        payment = await _begin_again(database, gateway, order, payment, settings)
    if payment.status == PaymentStatus.WANTED and payment.return_url is None and return_url is not None:
        payment = await _return_to(database, order_id, return_url)
    replayed = key in payment.start_keys
    if payment.status == PaymentStatus.WANTED:
        intent = await _asked("create", payment, create(gateway, payment))
        async with database.transaction() as session:
            outcome = await apply_answer(session, order_id, intent)
            payment = await repository.get(session, order_id)
            can_be_paid = outcome == "applied" and payment.status != PaymentStatus.CANCELLED
            if can_be_paid:
                _remember_key(payment, key)
        if not can_be_paid:
            raise ProviderUnavailable("The payment provider has no use for this payment")
    elif not replayed:
        async with database.transaction() as session:
            _remember_key(payment := await repository.get_locked(session, order_id), key)
    read = PaymentRead(
        order_id=order_id,
        status=payment.status,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        pay_url=payment.pay_url if payment.status == PaymentStatus.OPEN else None,
        expires_at=order.expires_at,
    )
    return Started(read, replayed)


async def _return_to(database: Database, order_id: UUID, return_url: str) -> Payment:
    """The payment, whose attempt says where its buyer goes afterwards, unless another request has said so before."""
    async with database.transaction() as session:
        payment = await repository.get_locked(session, order_id)
        if payment.status == PaymentStatus.WANTED and payment.return_url is None:
            payment.return_url = return_url
    return payment


async def _begin_again(
    database: Database, gateway: Gateway, order: Order, payment: Payment, settings: Settings
) -> Payment:
    """The next attempt to pay, once the provider says that the intent of the last one can never be paid."""
    intent = await _asked("cancel", payment, cancel(gateway, payment.intent_id or ""))
    async with database.transaction() as session:
        await apply_answer(session, order.id, intent)
        payment = await repository.get_locked(session, order.id)
        if payment.status == PaymentStatus.CANCELLED and payment.intent_id == intent.id:
            if payment.attempt >= settings.payment_attempts_max:
                raise PaymentOver
            await repository.supersede(session, payment)
            show(session, payment)
    return payment


async def _asked(operation: str, payment: Payment, asking: Awaitable[Intent]) -> Intent:
    try:
        return await asking
    except ProviderRefused as refused:
        # No buyer can do anything about it: a wrong key, or an amount that the provider does not take.
        metrics.PROVIDER_REFUSALS.labels(operation).inc()
        log.error("provider_refused", operation=operation, order_id=str(payment.order_id), reason=str(refused))
        raise ProviderUnavailable("The payment provider does not take this payment at the moment") from refused


def _remember_key(payment: Payment, key: str | None) -> None:
    if key is not None and key not in payment.start_keys:
        payment.start_keys = [*payment.start_keys, key][-START_KEYS_MAX:]


async def _wanted(
    database: Database, client: aioredis.Redis, *, order_id: UUID, buyer_id: str, settings: Settings
) -> tuple[Order, Payment]:
    """The order, and its payment as it is recorded before anybody is asked for it."""

    async def attempt() -> tuple[Order, Payment] | None:
        async with database.transaction() as session:
            order = await orders.find(session, order_id, buyer_id)
            if order is None:
                await in_ledger(session, client, order_id, buyer_id)
                return None
            await _require_payable(session, order)
            return order, await _want(session, order)

    return await wait_recorded(attempt, settings)


async def _require_payable(session: AsyncSession, order: Order) -> None:
    if order.status == OrderStatus.PAID:
        raise OrderPaid
    if order.status != OrderStatus.RESERVED:
        raise OrderClosed(f"The order is {order.status}", order_status=order.status)
    if await orders.hold_is_over(session, order.id):
        raise OrderClosed("The hold is over", order_status=OrderStatus.EXPIRED)


async def _want(session: AsyncSession, order: Order) -> Payment:
    payment = await repository.add_wanted(session, order)
    if payment.amount_minor == 0 and payment.captured_at is None:
        now = await database_time(session)
        payment.status, payment.captured_at = PaymentStatus.CAPTURED, now
        if await move(session, [order.id], OrderStatus.PAID, by=By.SHOP, reason="there is nothing to pay"):
            payment.paid_order_id, payment.settled_at = order.id, now
        show(session, payment)
    return payment


def money_report(money: Sequence[Money]) -> MoneyReport:
    """The sums of each currency as JSON, and whether they add up. Sums of two currencies are never added."""
    rows = [_of_currency(each) for each in money]
    return MoneyReport(data=rows, balanced=all(row.balanced for row in rows))


def _of_currency(money: Money) -> MoneyOfCurrency:
    accounted = money.paid + money.refunded + money.refund_pending + money.refund_taken_back + money.unsettled
    return MoneyOfCurrency(
        currency=money.currency,
        captured_minor=money.captured,
        paid_minor=money.paid,
        refunded_minor=money.refunded,
        refund_pending_minor=money.refund_pending,
        refund_taken_back_minor=money.refund_taken_back,
        unsettled_minor=money.unsettled,
        wrong_payments=money.wrong_payments,
        balanced=money.captured == accounted and money.wrong_payments == money.refund_taken_back == 0,
    )


async def refund(
    session: AsyncSession,
    database: Database,
    client: aioredis.Redis,
    actor: Actor,
    *,
    order_id: UUID,
    wish: RefundRequest,
    settings: Settings,
) -> RefundRead:
    """Give all the money of a paid order back, and its units too if `restock` says so; either happens once.

    The provider is asked by a job, again and again until it has done it. Raises OrderNotFound, OrderNotPaid, or
    Invalid for an amount that is not the captured one.
    """
    payment = await repository.lock_paying(session, order_id)
    order = await orders.find_any(session, order_id)
    if order is None:
        raise OrderNotFound
    if payment is None or order.status != OrderStatus.PAID:
        raise OrderNotPaid(f"The order is {order.status}", order_status=order.status)
    if wish.amount_minor not in (None, payment.amount_minor) or wish.currency not in (None, payment.currency):
        raise Invalid(
            f"Orders are refunded whole: {payment.amount_minor}",
            pointer="/amount_minor",
            captured_minor=payment.amount_minor,
            currency=payment.currency,
        )
    moved = await move(session, [order_id], OrderStatus.REFUNDED, by=By.ADMIN, reason=wish.reason, closes=wish.restock)
    if not moved:
        raise OrderNotPaid("The order was moved by somebody else")
    found = await repository.add_refund(session, payment, reason=wish.reason)
    record_admin_event(session, actor, action="refund", subject="order", subject_id=str(order_id), restock=wish.restock)
    if owed := owed_to_sales(moved):

        async def give_back() -> None:
            await release(database, client, owed, settings)

        after_commit(session, give_back)
    return RefundRead(
        order_id=order_id,
        status=found.status,
        amount_minor=found.amount_minor,
        currency=payment.currency,
        restocked=wish.restock,
        reason=found.reason,
    )
