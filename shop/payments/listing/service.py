"""All payments, for admins over HTTP and for the command line alike."""

from sqlalchemy.ext.asyncio import AsyncSession

from shop.paging import cut
from shop.payments.listing import repository
from shop.payments.listing.schemas import PaymentAdminPage, PaymentAdminRead, PaymentQuery
from shop.payments.models import Payment, RefundStatus


async def list_payments(session: AsyncSession, asked: PaymentQuery) -> PaymentAdminPage:
    """A page of all payments. Raises Invalid for an unknown cursor."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    return PaymentAdminPage(data=[_read(*row) for row in found], has_more=has_more)


def _read(payment: Payment, user_id: str, refund_status: RefundStatus | None) -> PaymentAdminRead:
    fields = PaymentAdminRead.model_fields.keys() - {"object", "user_id", "refund_status"}
    shown = {name: getattr(payment, name) for name in fields}
    return PaymentAdminRead(user_id=user_id, refund_status=refund_status, **shown)
