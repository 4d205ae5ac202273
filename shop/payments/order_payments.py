"""What buyers see of the payments of their orders, for `shop.orders.payment_of`."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.payment_of import OrderPayment
from shop.payments import repository
from shop.payments.models import Payment, PaymentStatus, Refund, RefundStatus


class PaymentsOfOrders:
    """Reads them from their rows, in the caller's transaction."""

    async def of_each(self, session: AsyncSession, order_ids: Collection[UUID]) -> dict[UUID, OrderPayment]:
        """See `Payments`. A replacement shows the late payment that paid it."""
        seen: dict[UUID, OrderPayment] = {}
        versions: dict[UUID, int] = {}
        for payment, refund in await repository.of_orders(session, order_ids):
            for order_id in {payment.order_id, payment.paid_order_id or payment.order_id} & set(order_ids):
                versions[order_id] = versions.get(order_id, 0) + payment.version
                if _is_seen(payment) and (order_id not in seen or payment.paid_order_id == order_id):
                    seen[order_id] = _read(payment, refund)
        return {order_id: each.model_copy(update={"version": versions[order_id]}) for order_id, each in seen.items()}

    def versions(self) -> ColumnElement[int]:
        """See `Payments`."""
        return repository.versions_of_order()


def _is_seen(payment: Payment) -> bool:
    """Whether there is anything to see: not before the first answer of the provider."""
    return payment.status != PaymentStatus.WANTED or payment.attempt > 1


def _read(payment: Payment, refund: Refund | None) -> OrderPayment:
    is_back = refund is not None and refund.status == RefundStatus.DONE
    seen = {
        "status": payment.status,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "pay_url": payment.pay_url if payment.status == PaymentStatus.OPEN else None,
        "declines": payment.declines,
        "decline_code": payment.decline_code,
        "refund": None if refund is None else refund.status,
        "refunded_minor": payment.amount_minor if is_back else 0,
    }
    return OrderPayment.model_validate(seen)
