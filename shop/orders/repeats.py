"""A purchase that the ledger cannot answer: only a row in Postgres may, and nothing is sold here."""

from datetime import UTC, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shop.errors import IdempotencyMismatch, NotReady, OverLimit, SaleEnded, SaleNotFound, SaleNotStarted, ShopError
from shop.orders import repository
from shop.orders.models import Order
from shop.orders.schemas import PurchaseRead
from shop.sales import repository as sales
from shop.sales.models import Sale, SaleStatus
from shop.sales.phase import phase_of
from shop.seckill.order_ids import keyed_order_id, numbered_order_id
from shop.seckill.receipts import Receipt, Signer
from shop.settings import Settings


async def repeat(
    session: AsyncSession, *, sale_id: int, user_id: str, key: str | None, quantity: int, settings: Settings
) -> PurchaseRead:
    """The order that the same request made before.

    Raises IdempotencyMismatch when it asked for something else; and when there is no such order SaleNotFound,
    SaleNotStarted, SaleEnded, or NotReady, because a sale that is open is sold by the ledger alone.
    """
    sale = await sales.read(session, sale_id)
    if sale is None or sale.status == SaleStatus.DRAFT:
        raise SaleNotFound
    order = await _find(session, sale, user_id, key)
    if order is None:
        raise await _why_not(session, sale)
    if order.quantity != quantity:
        raise IdempotencyMismatch(f"This was asked before for {order.quantity} units", order_id=str(order.id))
    return _read(order, sale, settings)


async def _find(session: AsyncSession, sale: Sale, user_id: str, key: str | None) -> Order | None:
    if key is not None:
        return await repository.find(session, UUID(bytes=keyed_order_id(sale.id, sale.salt, user_id, key)), user_id)
    for number in range(1, sale.orders_per_user + 1):
        order_id = UUID(bytes=numbered_order_id(sale.id, sale.salt, user_id, number))
        order = await repository.find(session, order_id, user_id)
        if order is None or order.closed_at is None:
            return order
    raise OverLimit("All the orders that one buyer may make in this sale are made")


async def _why_not(session: AsyncSession, sale: Sale) -> ShopError:
    now = await sales.database_time(session)
    match phase_of(sale, now):
        case "ended" | "settled":
            return SaleEnded(ended_at=sale.ends_at.isoformat())
        case "scheduled":
            wait = (sale.starts_at - now).total_seconds()
            return SaleNotStarted(retry_after=max(wait, 0.1), starts_at=sale.starts_at.isoformat())
        case _:
            return NotReady("The sale's ledger cannot be asked at the moment")


def _read(order: Order, sale: Sale, settings: Settings) -> PurchaseRead:
    reserved_at = order.reserved_at.astimezone(UTC)
    receipt = Receipt(
        order_id=str(order.id),
        sale_id=sale.id,
        epoch=order.epoch or 0,
        seq=order.seq or 0,
        user_id=order.user_id,
        quantity=order.quantity,
        reserved_ms=round(reserved_at.timestamp() * 1000),
    )
    return PurchaseRead(
        id=order.id,
        status="reserved" if order.closed_at is None else "released",
        sale_id=sale.id,
        quantity=order.quantity,
        total_minor=order.total_minor,
        currency=order.currency,
        reserved_at=reserved_at,
        expires_not_before=reserved_at + timedelta(seconds=sale.hold_seconds),
        poll_after_ms=settings.poll_after_ms,
        receipt=Signer(settings.secret).sign(receipt),
    )
