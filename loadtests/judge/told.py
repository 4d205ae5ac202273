"""The history of a sale as `loadtests.judge.history` judges it: what the answers said, and what the rows say."""

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.client.answers import REPLAYED, RESERVED
from loadtests.client.http import ConnectError, HttpError
from loadtests.judge.history import UNKNOWN, Attempt, Entry, Rules
from shop.ledger.order_ids import ids_of_sale
from shop.ledger.receipts import Receipt, Signer, Witness
from shop.orders.models import Order
from shop.sales.models import LedgerRow, Sale, SaleEpoch

ROWS_PER_FETCH = 10_000
NOT_EXECUTED = 503
UNKNOWN_FROM = 500


class _Answer(msgspec.Struct, gc=False):
    """What an answer to a purchase may tell."""

    id: str | None = None
    code: str | None = None
    order_id: str | None = None
    receipt: str | None = None
    witness: str | None = None


_answers = msgspec.json.Decoder(_Answer)


def attempt_of(
    answer: tuple[int, bytes] | HttpError,
    *,
    signer: Signer,
    sale_id: int,
    user_id: str,
    quantity: int,
    sent_at: float,
    answered_at: float,
) -> Attempt | None:
    """What came of a purchase, by its answer (status and body) or by what was in its way; None if it was never sent.

    Raises shop.ledger.receipts.Forged for a statement that the shop has not signed.
    """
    if isinstance(answer, ConnectError):
        return None
    code, order_id, epoch, seq = UNKNOWN, None, 0, None
    if not isinstance(answer, HttpError):
        status, body = answer
        told = _read(body)
        if told.receipt is not None and status < 300:
            receipt = signer.read(Receipt, told.receipt)
            code, order_id = (REPLAYED if status == 200 else RESERVED), receipt.order_id
            epoch, seq = receipt.epoch, receipt.seq
        elif told.code is not None and (status == NOT_EXECUTED or 300 <= status < UNKNOWN_FROM):
            code, order_id = told.code, told.order_id
            if told.witness is not None:
                witness = signer.read(Witness, told.witness)
                epoch, seq = witness.epoch, witness.seq
    return Attempt(sale_id, epoch, user_id, order_id, quantity, code, seq, sent_at, answered_at)


def _read(body: bytes) -> _Answer:
    try:
        return _answers.decode(body)
    except msgspec.DecodeError:
        return _Answer()


async def entries_of(session: AsyncSession, sale_id: int) -> list[Entry]:
    """Every row of a sale's ledger, in order."""
    query = (
        select(LedgerRow)
        .where(LedgerRow.sale_id == sale_id)
        .order_by(LedgerRow.epoch, LedgerRow.seq)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    rows = await session.stream_scalars(query)
    return [
        Entry(
            sale_id,
            row.epoch,
            row.seq,
            row.kind,
            None if row.order_id is None else str(row.order_id),
            row.user_id,
            row.quantity,
            row.delta,
            row.balance,
            row.quarantined is not None,
        )
        async for row in rows
    ]


async def rules_of(session: AsyncSession, sale_id: int) -> Rules:
    """What a sale allows. Raises sqlalchemy.exc.NoResultFound when there is no such sale."""
    sale = await session.get_one(Sale, sale_id)
    epochs = await session.execute(
        select(SaleEpoch.epoch, SaleEpoch.opening_balance).where(SaleEpoch.sale_id == sale_id)
    )
    openings = {epoch: opening for epoch, opening in epochs}  # noqa: C416 - rows are not pairs to dict()
    return Rules(sale.units_per_user, sale.orders_per_user, openings, await _given_back(session, sale_id))


async def _given_back(session: AsyncSession, sale_id: int) -> dict[str, int]:
    """The orders that were released in the transaction that began an epoch: both have its time."""
    ids = ids_of_sale(sale_id)
    query = (
        select(Order.id, SaleEpoch.epoch)
        .join(SaleEpoch, (SaleEpoch.sale_id == sale_id) & (SaleEpoch.created_at == Order.released_at))
        .where(Order.id.between(ids.first, ids.last))
    )
    return {str(order_id): epoch for order_id, epoch in await session.execute(query)}
