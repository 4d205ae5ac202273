"""What tests of the audit do: break a sale by hand, and look at what the audit makes of it."""

from collections.abc import Sequence

from sqlalchemy import select, text, update

from shop.audit.models import AuditFinding, SaleAudit
from shop.sales.models import Sale, SaleEpoch
from tests.harness import Shop, new_user_id, wait_until

AUDIT_SECONDS = 0.1
UNITS = 10
BUYERS = 3


async def sold(shop: Shop) -> Sale:
    """A sale with some orders, one of which is cancelled and released, all of it verified."""
    sale = await shop.open_sale(units=UNITS)
    client = await shop.client()
    for number in range(BUYERS):
        user_id = new_user_id()
        answer = await shop.buy(sale, user_id)
        if number == 0:
            await shop.drained(sale)
            path = f"/v1/orders/{answer.json()['id']}/cancel"
            assert (await client.post(path, headers=shop.headers(user_id))).status_code == 200
    await until_verified(shop, sale, seq=BUYERS + 1)
    return sale


async def position(shop: Shop, sale: Sale, *, epoch: int = 1) -> SaleAudit | None:
    """How far an epoch is verified."""
    async with shop.database.transaction() as session:
        return await session.get(SaleAudit, (sale.id, epoch))


async def until_verified(shop: Shop, sale: Sale, *, seq: int, epoch: int = 1) -> SaleAudit:
    """Wait until the audit has verified so much, and has seen that it is all good."""

    async def verified() -> SaleAudit | None:
        row = await position(shop, sale, epoch=epoch)
        return row if row is not None and row.verified_seq >= seq and row.checked_at > row.created_at else None

    row: SaleAudit = await wait_until(verified, reason=f"{seq} events of sale {sale.id} are verified")
    return row


async def execute(shop: Shop, sale: Sale, statements: Sequence[str], *, unverified: bool = False) -> None:
    """Run SQL about a sale in one transaction; with `unverified` no audit has verified its rows before."""
    async with shop.database.transaction() as session:
        for statement in statements:
            result = await session.execute(text(statement), {"sale": sale.id})
            assert result.rowcount, f"nothing was broken by {statement}"  # type: ignore[attr-defined]
        if unverified:
            opening = select(SaleEpoch.opening_balance).where(SaleEpoch.sale_id == sale.id, SaleEpoch.epoch == 1)
            sums = {"units_taken": 0, "held_back": 0, "quarantined": 0}
            await session.execute(
                update(SaleAudit)
                .where(SaleAudit.sale_id == sale.id)
                .values(verified_seq=0, balance=opening.scalar_subquery(), **sums)
            )


async def findings(shop: Shop, sale: Sale) -> list[AuditFinding]:
    """What was found wrong in a sale, the first one first."""
    async with shop.database.transaction() as session:
        query = select(AuditFinding).where(AuditFinding.sale_id == sale.id).order_by(AuditFinding.id)
        return list(await session.scalars(query))


async def until_stopped(shop: Shop, sale: Sale) -> Sale:
    """Wait until the audit has stopped the sale, and nobody can buy any more; returns its row."""

    async def stopped() -> Sale | None:
        row = await shop.row(sale)
        if row.stopped_at is None:
            return None
        answer = await shop.buy(sale)
        return row if (answer.status_code, answer.json()["code"]) == (503, "not_ready") else None

    row: Sale = await wait_until(stopped, reason=f"sale {sale.id} is stopped")
    return row
