"""The answer to an accepted purchase, written by hand: it is made for every order, and nothing in it needs escaping."""

from shop.ledger.client import LoadedSale
from shop.ledger.receipts import Signer
from shop.ledger.times import iso_time
from shop.seckill.purchase import Reservation

BODY = (
    '{"object":"order","id":"%s","status":"%s","sale_id":%d,"quantity":%d,"total_minor":%d,"currency":"%s",'
    '"reserved_at":"%s","expires_not_before":"%s","poll_after_ms":%d,"receipt":"%s"}'
)


def accepted_body(
    reservation: Reservation,
    sale: LoadedSale,
    user_id: str,
    *,
    poll_after_ms: int,
    signer: Signer,
    status: str = "reserved",
) -> bytes:
    """The order as `PurchaseRead` describes it, in UTF-8."""
    order_id, quantity, reserved_ms = reservation.order_id, reservation.quantity, reservation.reserved_ms
    receipt = signer.receipt(
        order_id=order_id,
        sale_id=sale.sale_id,
        epoch=sale.epoch,
        seq=reservation.seq,
        user_id=user_id,
        quantity=quantity,
        reserved_ms=reserved_ms,
    )
    values = (
        order_id,
        status,
        sale.sale_id,
        quantity,
        quantity * sale.price_minor,
        sale.currency,
        iso_time(reserved_ms),
        iso_time(reserved_ms + sale.hold_seconds * 1000),
        poll_after_ms,
        receipt,
    )
    return (BODY % values).encode()
