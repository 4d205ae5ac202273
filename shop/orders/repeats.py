"""A purchase that was made before: what its row in Postgres says. Nothing is sold here."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop.batching import Coalescer
from shop.database import Database
from shop.errors import IdempotencyMismatch, NotReady, OverLimit, SaleEnded, SaleNotFound, SaleNotStarted, ShopError
from shop.failure_isolation import SERVER_ERRORS
from shop.ledger.order_ids import keyed_order_id, numbered_order_id
from shop.ledger.receipts import Receipt, Signer
from shop.orders import repository
from shop.orders.models import Order, OrderStatus
from shop.orders.schemas import PurchaseRead
from shop.sales import repository as sales
from shop.sales.models import Sale, SaleStatus
from shop.sales.phase import phase_of
from shop.settings import Settings

# A crowd that asks again is read together, and waits no longer than this for Postgres.
STATUS_SECONDS_MAX = 0.5
ORDERS_PER_READ_MAX, READS_IN_FLIGHT_MAX, QUEUE_MAX = 256, 1, 2_000

log = structlog.get_logger(__name__)


class Statuses:
    """What has become of orders that the ledger knows, for the repeats of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._coalescer: Coalescer[str, str] = Coalescer(
            self._read, batch_max=ORDERS_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT_MAX, queue_max=QUEUE_MAX
        )

    async def status_of(self, order_id: str) -> str | None:
        """The status in the order's row, `reserved` while it has none; None when Postgres does not say so in time."""
        try:
            async with asyncio.timeout(STATUS_SECONDS_MAX):
                return await self._coalescer.ask(order_id)
        except SERVER_ERRORS as error:
            log.info("repeat_not_read", order_id=order_id, reason=repr(error)[:200])
            return None

    async def _read(self, order_ids: list[str]) -> Sequence[str]:
        async with self._database.transaction() as session:
            found = await repository.find_each(session, [UUID(each) for each in order_ids])
        statuses = {str(order.id): order.status for order in found}
        return [statuses.get(order_id, OrderStatus.RESERVED) for order_id in order_ids]


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
        status=order.status,
        sale_id=sale.id,
        quantity=order.quantity,
        total_minor=order.total_minor,
        currency=order.currency,
        reserved_at=reserved_at,
        expires_not_before=reserved_at + timedelta(seconds=sale.hold_seconds),
        poll_after_ms=settings.poll_after_ms,
        receipt=Signer(settings.secret).sign(receipt),
    )
