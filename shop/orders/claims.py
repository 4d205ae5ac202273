"""A buyer shows the receipt of an order that Redis has lost: it is honoured while its recovery keeps units for that."""

from uuid import UUID

import redis.asyncio as aioredis

from shop.database import Database
from shop.errors import Invalid, OrderNotFound
from shop.ledger.receipts import Forged, Receipt, Signer
from shop.orders import service
from shop.orders.schemas import OrderRead
from shop.orders.waiting import wait_recorded
from shop.sales import repository as sales
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.demand import demand_recovery
from shop.sales.incidents.models import ClaimOutcome
from shop.sales.incidents.repository import Promise
from shop.sales.models import Sale
from shop.seckill.polls import Polls
from shop.settings import Settings

LOST = frozenset({ClaimOutcome.REFUSED, ClaimOutcome.QUARANTINED})


async def read(
    database: Database,
    client: aioredis.Redis,
    *,
    order_id: UUID,
    buyer_id: str,
    receipt: str,
    polls: Polls,
    settings: Settings,
) -> OrderRead:
    """The buyer's order; if neither Postgres nor the ledger knows it, what its receipt promises is claimed first.

    Raises Invalid for a receipt that the shop has not signed, OrderNotFound when it is for something else or comes too
    late, NotReady when the ledger cannot be asked, and NotRecordedYet while the claim waits for its answer.
    """
    promise = _promise(receipt, order_id, buyer_id, settings)

    async def attempt() -> OrderRead | None:
        try:
            async with database.transaction() as session:
                return await service.read(session, client, order_id=order_id, buyer_id=buyer_id, polls=polls)
        except OrderNotFound:
            if unnoticed := await _claim(database, promise, settings):
                reason = f"a receipt shows order {order_id}, which the ledger has lost"
                await demand_recovery(database, client, unnoticed, reason, may_load=False, renew=True)
            return None

    return await wait_recorded(attempt, settings)


def _promise(text: str, order_id: UUID, buyer_id: str, settings: Settings) -> Promise:
    try:
        receipt = Signer(settings.secret).read(Receipt, text)
    except Forged as error:
        raise Invalid("The receipt is not one of this shop", part="header", pointer="/Receipt") from error
    if (receipt.order_id, receipt.user_id) != (str(order_id), buyer_id):
        raise OrderNotFound
    return Promise(receipt.sale_id, receipt.epoch, order_id, receipt.seq, buyer_id, receipt.quantity)


async def _claim(database: Database, promise: Promise, settings: Settings) -> Sale | None:
    """Claim the order of a receipt; returns the sale if nobody has noticed yet that its ledger has lost something."""
    async with database.transaction() as session:
        sale = await sales.find(session, promise.sale_id)
        if sale is None or sale.status not in sales.ALIVE:
            raise OrderNotFound
        claim = await recoveries.find_claim(session, promise)
        if claim is not None and claim.outcome in LOST:
            raise OrderNotFound("The order was lost, and its units are sold")
        unnoticed = promise.epoch == sale.epoch and await recoveries.unfinished(session, sale.id) is None
        if claim is None:
            if not unnoticed and not await recoveries.explain(
                session, promise, window_seconds=settings.receipt_window_seconds
            ):
                raise OrderNotFound
            await recoveries.add_claims(session, [promise], source="receipt")
    return sale if unnoticed else None
