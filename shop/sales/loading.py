"""Load → mark → open: how a ledger comes into being, and whether one that is there still agrees with Postgres."""

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import redis.asyncio as aioredis
import structlog
from redis.exceptions import ResponseError

from shop.database import Database
from shop.faults import recovery_fault_point
from shop.ledger import client as ledger
from shop.ledger import loading, stream
from shop.ledger.client import LedgerOrder, LoadedSale
from shop.ledger.events import UnreadableEvent, evidence, parse_event
from shop.redis_requirements import ledger_problems
from shop.sales import repository
from shop.sales.changes import milliseconds
from shop.sales.models import Sale, SaleEpoch
from shop.seckill.latch import winner_bits
from shop.settings import Settings

FIRST_EPOCH = 1
_NO_PAGES: Sequence[Sequence[tuple[bytes, LedgerOrder]]] = ()

log = structlog.get_logger(__name__)


class LedgerLost(Exception):
    """The ledger does not agree with what Postgres has recorded; it must stay closed."""


async def load(database: Database, client: aioredis.Redis, sale: Sale, settings: Settings) -> None:
    """Bring the ledger of a sale's first epoch up to `open`, from wherever an earlier loader left it.

    Until the mark is in Postgres a new loader starts over with a token of its own; after it, one only goes on to open.
    A later epoch has orders to begin with: that is a recovery's. Raises LedgerLost when the marked ledger is not there.
    """
    if sale.epoch != FIRST_EPOCH:
        return
    async with database.transaction() as session:
        epoch = await repository.find_epoch(session, sale.id, sale.epoch)
    if epoch is None:
        raise LedgerLost("the epoch is not recorded")
    token = epoch.token
    if token is None:
        problems = await ledger_problems(client, settings)
        if problems:
            log.error("ledger_not_loaded", sale_id=sale.id, reason="; ".join(problems))
            return
        token = await build(database, client, sale, epoch, settings)
        if token is None:
            return
    await open_marked(database, client, sale, token, "open", settings)


async def open_marked(
    database: Database, client: aioredis.Redis, sale: Sale, token: str, state: str, settings: Settings
) -> bool:
    """Let the marked ledger take a state; False when it was started over by another loader, and the mark is undone.

    Raises LedgerLost when it is not there.
    """
    timeout = settings.redis_timeout_seconds
    answer = await loading.open_load(client, sale.id, sale.epoch, token=token, state=state, timeout=timeout)
    if answer.word == "WRONG_TOKEN":
        # Another loader started over after our mark; nothing was sold from either, because neither was opened.
        async with database.transaction() as session:
            await repository.unmark_loaded(session, sale.id, sale.epoch, token)
        return False
    if answer.word in {"NOT_LOADED", "STALE_EPOCH"}:
        raise LedgerLost(f"the marked ledger is {answer.word.lower()}")
    return True


async def build(
    database: Database,
    client: aioredis.Redis,
    sale: Sale,
    epoch: SaleEpoch,
    settings: Settings,
    *,
    orders: AsyncIterable[Sequence[tuple[bytes, LedgerOrder]]] | None = None,
) -> str | None:
    """Write a whole ledger, with these orders in it, and mark it; returns its loader's token.

    None when another loader was first, or started over meanwhile: then the caller has to read it again.
    """
    token, timeout = secrets.token_hex(8), settings.redis_timeout_seconds
    run_id = await loading.run_id(client)
    async with database.transaction() as session:
        applied = await repository.last_closed_change(session, sale.id)
    fields = {
        "starts_ms": milliseconds(sale.starts_at),
        "ends_ms": milliseconds(sale.ends_at),
        "units_per_user": sale.units_per_user,
        "orders_per_user": sale.orders_per_user,
        "price_minor": sale.price_minor,
        "available": epoch.opening_balance,
        "held_back": sale.held_back,
        "applied": applied,
        "backlog_max": settings.backlog_max,
        "skew_ms": settings.skew_ms,
        "winner_bits": winner_bits(max(sale.units, 1)),
        "format": settings.ledger_format,
    }
    await loading.begin_load(client, sale.id, sale.epoch, token=token, fields=fields, timeout=timeout)
    async for chunk in orders or _none():
        answer = await loading.add_orders(client, sale.id, sale.epoch, token=token, orders=chunk, timeout=timeout)
        if answer.word != "ADDED":
            return None
        recovery_fault_point(settings, "chunk")
    recovery_fault_point(settings, "mark")
    async with database.transaction() as session:
        marked = await repository.mark_loaded(session, sale.id, sale.epoch, token, run_id)
    return token if marked else None


async def _none() -> AsyncIterator[Sequence[tuple[bytes, LedgerOrder]]]:
    """A sale that begins has no orders."""
    for page in _NO_PAGES:
        yield page


async def require_agreement(client: aioredis.Redis, sale: Sale) -> ledger.LedgerState:
    """The ledger's state, if it agrees with the sale's row. Raises LedgerLost.

    The row must have been read before: the ledger may be ahead of it, never behind. The entry at the watermark is kept
    by the trim and must be the one that Postgres recorded.
    """
    try:
        state = await ledger.read_state(client, sale.id, sale.epoch)
    except (ResponseError, KeyError, ValueError) as error:
        raise LedgerLost(f"the ledger cannot be read: {error!r}") from error
    if state is None:
        raise LedgerLost("the ledger's keys are missing")
    if state.epoch != str(sale.epoch):
        raise LedgerLost(f"the ledger is at epoch {state.epoch}, Postgres at {sale.epoch}")
    if sale.units_taken > 0 and not state.has_orders:
        raise LedgerLost("the ledger's keys about orders are missing")
    if state.seq < sale.watermark:
        raise LedgerLost(f"the ledger is at seq {state.seq}, Postgres has recorded {sale.watermark}")
    return state


async def require_entry_at_watermark(database: Database, client: aioredis.Redis, sale: Sale) -> None:
    """The stream's entry at the watermark must be the recorded one. Raises LedgerLost."""
    if sale.watermark == 0:
        return
    found = await stream.events_from(client, sale.id, sale.epoch, sale.watermark, 1)
    async with database.transaction() as session:
        recorded = await repository.ledger_entry(session, sale.id, sale.epoch, sale.watermark)
        newest = await repository.find(session, sale.id)
    if newest is not None and newest.watermark != sale.watermark:
        return  # It moved on while we looked: the persister has compared it itself.
    if not found or found[0][0] != sale.watermark or not is_recorded(*found[0], recorded):
        raise LedgerLost(f"the entry at the watermark {sale.watermark} is not the recorded one")


def is_recorded(seq: int, fields: dict[bytes, bytes], recorded: repository.Entry | None) -> bool:
    """Whether an entry of the stream is the one that Postgres has recorded, or has quarantined, under its number."""
    if recorded is not None and recorded.quarantined is not None:
        return recorded.quarantined == evidence(fields)
    try:
        event = parse_event(seq, fields)
    except UnreadableEvent:
        return False
    return recorded == repository.Entry(event.order_id, event.balance)


def loaded_sale(sale: Sale) -> LoadedSale:
    """The directory's entry of a sale."""
    return LoadedSale(
        sale_id=sale.id,
        epoch=sale.epoch,
        salt=sale.salt,
        price_minor=sale.price_minor,
        currency=sale.currency,
        hold_seconds=sale.hold_seconds,
        orders_per_user=sale.orders_per_user,
    )
