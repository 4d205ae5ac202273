"""The hot list: the products that are read most, counted by each process and merged on the side server.

What was read an hour ago counts less than what is read now: a score loses half in each half-life, all the time
(`lua/hot_products.lua`). It is what shoppers look at, and no promise hangs on it: what is not merged is forgotten.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import redis.asyncio as aioredis
import structlog
from fastapi import Depends, Request

from shop.app_keys import AppKey
from shop.bounds import PAGE_MAX
from shop.database import Database
from shop.products import repository
from shop.products.schemas import ProductPage, public_view
from shop.redis import NotSent, OutcomeUnknown, call_many, call_script
from shop.settings import Settings
from shop.stopping import sleep_or_stop

SCALED_AT, SCORES = "shop:{hot}:scaled_at", "shop:{hot}:products"
MERGE_SECONDS = 1.0
# What one process counts between two merges, and tells of it; a crowd's products are among them.
COUNTED_MAX, TOLD_MAX = 10_000, 500
# Kept there: some of them may not be published any more.
KEPT = 10 * PAGE_MAX

log = structlog.get_logger(__name__)


class HotProducts:
    """What the readers of one process look at, and what those of all processes do."""

    def __init__(self, database: Database, redis: aioredis.Redis, settings: Settings) -> None:
        self._database = database
        self._redis = redis
        self._timeout_seconds = settings.redis_timeout_seconds
        self._half_life_ms = round(1000 * settings.hot_half_life_seconds)
        self._counts: Counter[int] = Counter()

    def count(self, product_id: int) -> None:
        """This product, which exists, was read once."""
        if product_id in self._counts or len(self._counts) < COUNTED_MAX:
            self._counts[product_id] += 1

    async def merge(self) -> None:
        """Tell what was counted since the last time. Raises NotSent or OutcomeUnknown; it is forgotten then."""
        told, self._counts = self._counts.most_common(TOLD_MAX), Counter()
        if told:
            arguments = [self._half_life_ms, KEPT, *(number for pair in told for number in pair)]
            await call_script(
                self._redis, "hot_products", [SCALED_AT, SCORES], arguments, timeout=self._timeout_seconds
            )

    async def read_page(self, limit: int) -> bytes:
        """The hottest published products as JSON, at most `limit`. Raises what says that a server is away."""
        ranked = await self._ranked()
        async with self._database.transaction() as session:
            found = {each.id: each for each in await repository.find_each_published(session, ranked)}
        hottest = [found[product_id] for product_id in ranked if product_id in found][:limit]
        page = ProductPage(data=[public_view(product) for product in hottest], has_more=False)
        return page.model_dump_json().encode()

    async def _ranked(self) -> Sequence[int]:
        command = ("ZREVRANGE", SCORES, 0, 2 * PAGE_MAX - 1)
        (found,) = await call_many(self._redis, [command], timeout=self._timeout_seconds)
        if isinstance(found, Exception):
            raise found
        return [int(member) for member in found]


async def merge_hot_products(hot: HotProducts, stopping: asyncio.Event) -> None:
    """Merge what is counted every `MERGE_SECONDS`, until `stopping` is set. While the side server is away none is."""
    merging = True
    while not stopping.is_set():
        await sleep_or_stop(stopping, MERGE_SECONDS)
        try:
            await hot.merge()
            merging = True
        except (NotSent, OutcomeUnknown) as error:
            if merging:
                log.warning("hot_products_not_merged", reason=repr(error)[:200])
            merging = False


HOT_PRODUCTS = AppKey[HotProducts]("hot_products")


async def _hot_products(request: Request) -> HotProducts:
    return HOT_PRODUCTS.of(request)


HotProductsDep = Annotated[HotProducts, Depends(_hot_products)]
