"""What a sale is at a moment: its recorded status and the clock together."""

from collections.abc import Sequence
from datetime import datetime

from shop.sales.models import Sale, SaleStatus
from shop.sales.schemas import Phase, SaleAdminRead, SalePage, SaleRead, StockBand

FEW_SHARE = 0.1


def phase_of(sale: Sale, now: datetime) -> Phase:
    """The phase: a scheduled sale opens and ends by the clock."""
    if sale.status != SaleStatus.SCHEDULED:
        return SaleStatus(sale.status).value
    if now >= sale.ends_at:
        return "ended"
    if sale.paused:
        return "paused"
    return "open" if now >= sale.starts_at else "scheduled"


def changes_at(sale: Sale, now: datetime) -> datetime | None:
    """When the phase changes by itself; None if it never does."""
    if sale.status != SaleStatus.SCHEDULED:
        return None
    return min((at for at in (sale.starts_at, sale.ends_at) if at > now), default=None)


def stock_band(sale: Sale) -> StockBand:
    """How much is left, coarsely: the exact number is nobody's business, and it would be old when read."""
    left = sale.units - sale.units_taken
    if left <= 0 or sale.status != SaleStatus.SCHEDULED:
        return "none"
    return "few" if left <= sale.units * FEW_SHARE else "plenty"


def read(sale: Sale, now: datetime, *, aged: bool = False) -> SaleRead:
    """The sale as the public sees it. What changes all the time, such as a countdown, its readers compute.

    Of a row that has aged since it was read, nobody knows how much is left.
    """
    return SaleRead(
        id=sale.id,
        product_id=sale.product_id,
        name=sale.name,
        phase=phase_of(sale, now),
        stock="unknown" if aged else stock_band(sale),
        price_minor=sale.price_minor,
        currency=sale.currency,
        units_per_user=sale.units_per_user,
        starts_at=sale.starts_at,
        ends_at=sale.ends_at,
    )


def read_page(sales: Sequence[Sale], now: datetime, *, limit: int, aged: bool = False) -> SalePage:
    """The first `limit` of these sales; one more tells that there are more."""
    return SalePage(data=[read(sale, now, aged=aged) for sale in sales[:limit]], has_more=len(sales) > limit)


def admin_read(sale: Sale, now: datetime) -> SaleAdminRead:
    """The sale as an admin sees it."""
    fields = {name: getattr(sale, name) for name in SaleAdminRead.model_fields if name not in {"object", "phase"}}
    return SaleAdminRead(phase=phase_of(sale, now), **fields)
