"""What a sale is at a moment: its recorded status and the clock together."""

from datetime import datetime

from shop.sales.models import Sale, SaleStatus
from shop.sales.schemas import Phase, SaleAdminRead, SaleRead, StockBand

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


def stock_band(sale: Sale) -> StockBand:
    """How much is left, coarsely: the exact number is nobody's business, and it would be old when read."""
    left = sale.units - sale.units_taken
    if left <= 0 or sale.status != SaleStatus.SCHEDULED:
        return "none"
    return "few" if left <= sale.units * FEW_SHARE else "plenty"


def read(sale: Sale, now: datetime) -> SaleRead:
    """The sale as the public sees it, with the server's time for countdowns."""
    return SaleRead(
        id=sale.id,
        product_id=sale.product_id,
        name=sale.name,
        phase=phase_of(sale, now),
        stock=stock_band(sale),
        price_minor=sale.price_minor,
        currency=sale.currency,
        units_per_user=sale.units_per_user,
        starts_at=sale.starts_at,
        ends_at=sale.ends_at,
        server_time=now,
        seconds_to_start=max((sale.starts_at - now).total_seconds(), 0.0),
    )


def admin_read(sale: Sale, now: datetime) -> SaleAdminRead:
    """The sale as an admin sees it."""
    fields = {name: getattr(sale, name) for name in SaleAdminRead.model_fields if name not in {"object", "phase"}}
    return SaleAdminRead(phase=phase_of(sale, now), **fields)
