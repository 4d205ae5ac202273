"""Keep what was promised before the loss: each claim goes through `reserve.lua`, from what is held back first."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

import redis.asyncio as aioredis
import structlog

from shop.database import Database
from shop.faults import recovery_fault_point
from shop.ledger import loading
from shop.ledger.client import Answer, ReserveRequest
from shop.recovery import repository
from shop.redis import NotSent
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import ClaimOutcome, RecoveryClaim
from shop.sales.loading import LedgerLost, loaded_sale
from shop.sales.models import Sale
from shop.settings import Settings

log = structlog.get_logger(__name__)

OUTCOMES = {"RESERVED": ClaimOutcome.HONOURED, "REPLAYED": ClaimOutcome.HONOURED}


async def honour_claims(database: Database, client: aioredis.Redis, sale: Sale, settings: Settings) -> int:
    """Reserve every pending claim of the sale's earlier epochs; returns how many were refused.

    Repeating it is harmless: an order that is there already is found. Raises LedgerLost when the ledger is not there.
    """
    refused = 0
    async with database.transaction() as session:
        await repository.sort_claims(session, sale.id)
    while True:
        async with database.transaction() as session:
            claims = await repository.pending(
                session, sale.id, before_epoch=sale.epoch, limit=loading.HONOURED_PER_BATCH
            )
        if not claims:
            return refused
        recovery_fault_point(settings, "batch")
        requests = [ReserveRequest(claim.order_id.bytes, claim.user_id, claim.quantity) for claim in claims]
        answers = await loading.honour(client, loaded_sale(sale), requests, timeout=settings.redis_timeout_seconds)
        refused += await _note(database, sale.id, claims, answers)


async def _note(database: Database, sale_id: int, claims: Sequence[RecoveryClaim], answers: Sequence[Answer]) -> int:
    by_outcome: dict[tuple[int, ClaimOutcome], list[UUID]] = defaultdict(list)
    for claim, answer in zip(claims, answers, strict=True):
        if answer.word in {"NOT_LOADED", "STALE_EPOCH"}:
            raise LedgerLost(f"the new ledger is {answer.word.lower()}")
        if answer.word == "LATE":
            raise NotSent("the ledger was asked too late")
        outcome = OUTCOMES.get(answer.word, ClaimOutcome.REFUSED)
        if outcome is ClaimOutcome.REFUSED:
            log.error("promise_lost", sale_id=sale_id, order_id=str(claim.order_id), answer=answer.word)
        by_outcome[claim.epoch, outcome].append(claim.order_id)
    async with database.transaction() as session:
        for (epoch, outcome), order_ids in by_outcome.items():
            await recoveries.close_claims(session, sale_id, epoch, order_ids, outcome)
    return sum(len(ids) for (_, outcome), ids in by_outcome.items() if outcome is ClaimOutcome.REFUSED)
