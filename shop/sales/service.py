"""What an admin may do to a sale. Each function works inside the caller's transaction and records who did it.

A draft is edited freely. From the schedule on, every change is a numbered row which the ledger applies once, in order:
see `shop.sales.changes` for what happens after the commit.
"""

import os
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.errors import Invalid, NotEnoughStock, ProductNotFound, SaleNotFound, SaleStateConflict
from shop.idempotency.service import Asked, once
from shop.products import repository as products
from shop.products.schemas import PRICE_MINOR_MAX
from shop.sales import repository
from shop.sales.models import ChangeKind, Sale, SaleChange, SaleEpoch, SaleStatus
from shop.sales.schemas import UNITS_MAX, WINDOW_MIN, ChangeRead, SaleCreate, SalePatch

SALT_BYTES = 16


async def create(session: AsyncSession, actor: Actor, wish: SaleCreate) -> Sale:
    """Make a draft. No units leave the product yet. Raises ProductNotFound, or Invalid for a price above the top
    or another currency.
    """
    product = await products.find(session, wish.product_id)
    if product is None:
        raise ProductNotFound
    _check_currency(wish.currency, product.currency)
    price_minor = product.price_minor if wish.price_minor is None else wish.price_minor
    if price_minor > PRICE_MINOR_MAX:  # of a product from before there was a top
        raise Invalid(f"A price is at most {PRICE_MINOR_MAX:,} minor units")
    sale = Sale(
        **wish.model_dump(exclude={"price_minor", "currency"}),
        price_minor=price_minor,
        currency=product.currency,
        salt=os.urandom(SALT_BYTES),
    )
    session.add(sale)
    await session.flush()
    await session.refresh(sale)
    record_admin_event(
        session, actor, action="sale.create", subject="sale", subject_id=sale.id, **wish.model_dump(mode="json")
    )
    return sale


async def edit(session: AsyncSession, actor: Actor, sale_id: int, patch: SalePatch) -> Sale:
    """Change a draft. Raises SaleNotFound, SaleStateConflict, or Invalid for a window that ends before it starts, or
    for another currency.
    """
    sale = await _locked(session, sale_id)
    if sale.status != SaleStatus.DRAFT:
        raise SaleStateConflict("Only a draft can be edited; use window, stock, pause, resume or close")
    changes = patch.model_dump(exclude_none=True)
    if not changes:
        return sale
    _check_currency(patch.currency, sale.currency)
    for name, value in changes.items():
        setattr(sale, name, value)
    _check_window(sale.starts_at, sale.ends_at)
    record_admin_event(
        session,
        actor,
        action="sale.edit",
        subject="sale",
        subject_id=sale_id,
        **patch.model_dump(mode="json", exclude_none=True),
    )
    await session.flush()
    await session.refresh(sale)
    return sale


def _check_currency(wished: str | None, currency: str) -> None:
    if wished not in (None, currency):
        raise Invalid(f"The product is sold in {currency}", pointer="/currency")


async def schedule(session: AsyncSession, actor: Actor, sale_id: int) -> Sale:
    """Take the units out of the product's stock and commit to the sale; it opens by itself.

    Raises SaleNotFound, SaleStateConflict when it is no draft or its window is over, NotEnoughStock.
    """
    sale = await _locked(session, sale_id)
    if sale.status != SaleStatus.DRAFT:
        raise SaleStateConflict(f"The sale is already {sale.status}; it can be scheduled once")
    if sale.ends_at <= await repository.database_time(session):
        raise SaleStateConflict("The sale's window is already over; move ends_at first")
    if not await products.take_stock(session, sale.product_id, sale.units):
        raise NotEnoughStock(f"The product does not have {sale.units} units in stock")
    sale.status = SaleStatus.SCHEDULED
    sale.epoch = 1
    sale.watermark_balance = sale.units
    session.add(SaleEpoch(sale_id=sale_id, epoch=sale.epoch, opening_balance=sale.units))
    record_admin_event(session, actor, action="sale.schedule", subject="sale", subject_id=sale_id, units=sale.units)
    await session.flush()
    await session.refresh(sale)
    return sale


async def change_window(
    session: AsyncSession, actor: Actor, sale_id: int, *, starts_at: datetime | None, ends_at: datetime | None
) -> SaleChange:
    """Ask for a new window; what is None stays. Raises Invalid when it ends before it starts."""
    sale = await _changeable(session, sale_id)
    starts_at, ends_at = starts_at or sale.starts_at, ends_at or sale.ends_at
    _check_window(starts_at, ends_at)
    return await _number(session, actor, sale, ChangeKind.WINDOW, starts_at=starts_at, ends_at=ends_at)


async def change_units(session: AsyncSession, actor: Actor, sale_id: int, *, delta: int) -> SaleChange:
    """Ask for units more or fewer.

    On the way up Postgres grants first: the units leave the product now. On the way down the ledger gives first: the
    product is credited when the event is drained. Raises Invalid for 0, NotEnoughStock.
    """
    sale = await _changeable(session, sale_id)
    if delta == 0:
        raise Invalid("A change of units must not be 0", pointer="/delta")
    if sale.units + delta > UNITS_MAX:
        raise Invalid(f"A sale has at most {UNITS_MAX} units", pointer="/delta")
    if delta > 0:
        if not await products.take_stock(session, sale.product_id, delta):
            raise NotEnoughStock(f"The product does not have {delta} units in stock")
        sale.units += delta
    return await _number(session, actor, sale, ChangeKind.UNITS, units_delta=delta)


async def change_units_once(
    session: AsyncSession, actor: Actor, sale_id: int, asked: Asked, *, delta: int
) -> tuple[SaleChange, bool]:
    """`change_units`, once for the key: the change as it is now, and whether an earlier request made it.

    What is kept under the key only names the change. Its row is never deleted, and tells at any time what the ledger
    made of it. Raises IdempotencyMismatch, and what `change_units` raises.
    """

    async def work() -> ChangeRead:
        return ChangeRead.model_validate(await change_units(session, actor, sale_id, delta=delta))

    done = await once(session, asked, work, status=202)
    change = await repository.find_change(session, sale_id, ChangeRead.model_validate_json(done.body).n)
    if change is None:
        raise SaleNotFound
    return change, done.replayed


async def pause(session: AsyncSession, actor: Actor, sale_id: int) -> SaleChange:
    """Ask for a pause: purchases are refused, everything else goes on."""
    return await _number(session, actor, await _changeable(session, sale_id), ChangeKind.PAUSE)


async def resume(session: AsyncSession, actor: Actor, sale_id: int) -> SaleChange:
    """Ask for the end of a pause. Raises SaleStateConflict while an alarm stands."""
    sale = await _changeable(session, sale_id)
    if sale.alarm is not None:
        raise SaleStateConflict(f"The sale was stopped by an alarm: {sale.alarm}")
    return await _number(session, actor, sale, ChangeKind.RESUME)


async def close(session: AsyncSession, actor: Actor, sale_id: int) -> SaleChange:
    """Ask for an early end: the window ends now, and the unsold units go back to the product."""
    return await _number(session, actor, await _changeable(session, sale_id), ChangeKind.CLOSE)


async def end_or_settle(session: AsyncSession, actor: Actor, sale_id: int, kind: ChangeKind) -> SaleChange | None:
    """The controller's own changes; None when another controller was first or the state moved on."""
    sale = await _locked(session, sale_id)
    expected = SaleStatus.SCHEDULED if kind is ChangeKind.END else SaleStatus.ENDED
    pending = [change for change in await repository.open_changes(session, sale_id) if change.kind == kind]
    if sale.status != expected or pending:
        return None
    return await _number(session, actor, sale, kind)


async def restore_held_back(session: AsyncSession, actor: Actor, sale_id: int) -> SaleChange | None:
    """Put on sale what a recovery still holds back; None when there is nothing, or it was asked for already."""
    sale = await _locked(session, sale_id)
    pending = [
        change for change in await repository.open_changes(session, sale_id) if change.kind == ChangeKind.RESTORE
    ]
    if sale.held_back == 0 or pending:
        return None
    return await _number(session, actor, sale, ChangeKind.RESTORE)


async def _number(session: AsyncSession, actor: Actor, sale: Sale, kind: ChangeKind, **values: Any) -> SaleChange:
    sale.changes += 1
    change = SaleChange(sale_id=sale.id, n=sale.changes, kind=kind, requested_by=actor.id, **values)
    session.add(change)
    details = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
    record_admin_event(
        session, actor, action=f"sale.{kind.value}", subject="sale", subject_id=sale.id, n=change.n, **details
    )
    await session.flush()
    return change


async def _locked(session: AsyncSession, sale_id: int) -> Sale:
    sale = await repository.lock(session, sale_id)
    if sale is None:
        raise SaleNotFound
    return sale


async def _changeable(session: AsyncSession, sale_id: int) -> Sale:
    sale = await _locked(session, sale_id)
    if sale.status == SaleStatus.DRAFT:
        raise SaleStateConflict("The sale is a draft; edit it instead")
    if sale.status != SaleStatus.SCHEDULED:
        raise SaleStateConflict(f"The sale is {sale.status}")
    return sale


def _check_window(starts_at: datetime, ends_at: datetime) -> None:
    if ends_at - starts_at < WINDOW_MIN:
        raise Invalid("ends_at must be after starts_at", pointer="/ends_at")
