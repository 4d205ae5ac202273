"""How the public reads one product: through the cache, and from Postgres many in one statement.

An id of which nothing is known may be made up. All such ids that come within a pause share one question, however many
they are, and what there is is loaded beside them without a wait.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from shop.app_keys import AppKey
from shop.batching import Coalescer
from shop.cache import Cache
from shop.database import Database
from shop.errors import ProductNotFound
from shop.products import repository
from shop.products.schemas import public_view
from shop.products.service import key_of
from shop.settings import Settings

PRODUCTS_PER_READ_MAX, READS_IN_FLIGHT_MAX, QUEUE_MAX = 100, 2, 10_000


class ProductReader:
    """The published products for one process."""

    def __init__(self, database: Database, cache: Cache, settings: Settings) -> None:
        self._database = database
        self._cache = cache
        self._unknown: Coalescer[int, bool] = Coalescer(
            self._are_published,
            batch_max=settings.cache_unknown_queue_max,
            in_flight_max=1,
            queue_max=settings.cache_unknown_queue_max,
            pause_seconds=settings.unknown_ids_pause_seconds,
        )
        self._loads: Coalescer[int, bytes | None] = Coalescer(
            self._load, batch_max=PRODUCTS_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT_MAX, queue_max=QUEUE_MAX
        )

    async def read(self, product_id: int) -> bytes:
        """The published product as JSON. Raises ProductNotFound, which the cache remembers too, or Overloaded."""
        load, exists = partial(self._loads.ask, product_id), partial(self._unknown.ask, product_id)
        body = await self._cache.get_or_load(key_of(product_id), load, exists=exists)
        if body is None:
            raise ProductNotFound
        return body

    async def _are_published(self, product_ids: list[int]) -> Sequence[bool]:
        async with self._database.transaction() as session:
            found = await repository.published_ids(session, product_ids)
        return [product_id in found for product_id in product_ids]

    async def _load(self, product_ids: list[int]) -> Sequence[bytes | None]:
        async with self._database.transaction() as session:
            found = {each.id: each for each in await repository.find_each_published(session, product_ids)}
        drawn = {product_id: public_view(each).model_dump_json().encode() for product_id, each in found.items()}
        return [drawn.get(product_id) for product_id in product_ids]


PRODUCT_READER = AppKey[ProductReader]("product_reader")


async def _product_reader(request: Request) -> ProductReader:
    return PRODUCT_READER.of(request)


ProductReaderDep = Annotated[ProductReader, Depends(_product_reader)]
