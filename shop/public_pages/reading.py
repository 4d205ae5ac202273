"""How each kind of page is read and drawn: sales from Postgres, many in one statement, products through the cache."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from shop.batching import Coalescer
from shop.cache import Cache, remember
from shop.database import Database
from shop.errors import ProductNotFound
from shop.paging import next_link
from shop.products import service as products
from shop.products.hot import HotProducts
from shop.products.reading import ProductReader
from shop.public_pages.memory import Key
from shop.public_pages.page import Page, Render, Rendered
from shop.sales import phase
from shop.sales import repository as sales
from shop.sales.models import Sale
from shop.settings import Settings

SALE, SALES, PRODUCT, PRODUCTS, HOT = "sale", "sales", "product", "products", "hot"
SALES_PATH, PRODUCTS_PATH, HOT_PATH = "/v1/seckill/sales", "/v1/products", "/v1/products/hot"
# Shared caches may keep the state of a sale for two seconds in all. A price is asked for each time: it may not be old.
STATE, PRICE = b"public, max-age=0, s-maxage=1, stale-while-revalidate=1", b"public, no-cache"
SALES_PER_READ_MAX, READS_IN_FLIGHT_MAX, QUEUE_MAX = 100, 2, 10_000
KNOWN_MAX = 10_000  # sales that one process has seen

# A sale, and how far Postgres' clock is ahead of this process's; None if there is no such sale.
Read = tuple[Sale, timedelta] | None


class PageReader:
    """Reads the public pages of one process."""

    def __init__(
        self, database: Database, cache: Cache, product_reader: ProductReader, hot: HotProducts, settings: Settings
    ) -> None:
        self._database = database
        self._cache = cache
        self._products = product_reader
        self._hot = hot
        self._sales: Coalescer[int, Read] = Coalescer(
            self._read_sales, batch_max=SALES_PER_READ_MAX, in_flight_max=READS_IN_FLIGHT_MAX, queue_max=QUEUE_MAX
        )
        # Ids that may be made up: one question for all that come within a pause, beside the sales that there are.
        self._unknown: Coalescer[int, Read] = Coalescer(
            self._read_sales,
            batch_max=QUEUE_MAX,
            in_flight_max=1,
            queue_max=QUEUE_MAX,
            pause_seconds=settings.unknown_ids_pause_seconds,
        )
        self._known: OrderedDict[int, None] = OrderedDict()

    async def read(self, key: Key) -> Page | None:
        """The page, or None if there is no such thing. Raises what says that a server is away."""
        asked_at = time.monotonic()
        if key.kind == SALE:
            found = await self._sale(key.number)
            return None if found is None else _page(partial(_draw_sale, found[0]), STATE, asked_at, found[1])
        if key.kind == SALES:
            listed, clock_ahead = await self._list_sales(key.number)
            return _page(partial(_draw_sales, listed, key.number), STATE, asked_at, clock_ahead)
        rendered = await self._read_catalogue(key)
        return None if rendered is None else _page(lambda *_: rendered, PRICE, asked_at)

    async def _read_catalogue(self, key: Key) -> Rendered | None:
        if key.kind == HOT:
            return Rendered(await self._hot.read_page(key.number))
        return await (self._product(key.number) if key.kind == PRODUCT else self._list_products(key.number))

    async def _sale(self, sale_id: int) -> Read:
        found = await (self._sales if sale_id in self._known else self._unknown).ask(sale_id)
        if found is not None:
            remember(self._known, sale_id, None, KNOWN_MAX)
        return found

    async def _read_sales(self, sale_ids: list[int]) -> Sequence[Read]:
        async with self._database.transaction() as session:
            found = await sales.read_each(session, sale_ids, statuses=sales.PUBLIC)
        here = datetime.now(UTC)
        ahead = {sale_id: (sale, now - here) for sale_id, (sale, now) in found.items()}
        return [ahead.get(sale_id) for sale_id in sale_ids]

    async def _list_sales(self, limit: int) -> tuple[Sequence[Sale], timedelta]:
        async with self._database.transaction() as session:
            clock_ahead = await sales.database_time(session) - datetime.now(UTC)
            listed = await sales.page(session, limit=limit + 1, starting_after=None, statuses=sales.PUBLIC)
        return listed, clock_ahead

    async def _product(self, product_id: int) -> Rendered | None:
        try:
            return Rendered(await self._products.read(product_id))
        except ProductNotFound:
            return None

    async def _list_products(self, limit: int) -> Rendered:
        page = await products.read_public_page(self._database, self._cache, limit=limit, starting_after=None)
        return Rendered(page.body, headers=_next(PRODUCTS_PATH, limit, page.next_cursor))


def _page(draw: Render, cache_control: bytes, asked_at: float, clock_ahead: timedelta = timedelta()) -> Page:
    return Page(draw, cache_control=cache_control, asked_at=asked_at, clock_ahead=clock_ahead)


def _draw_sale(sale: Sale, now: datetime, aged: bool) -> Rendered:
    return Rendered(phase.read(sale, now, aged=aged).model_dump_json().encode(), phase.changes_at(sale, now))


def _draw_sales(listed: Sequence[Sale], limit: int, now: datetime, aged: bool) -> Rendered:
    page = phase.read_page(listed, now, limit=limit, aged=aged)
    changes = [at for sale in listed[:limit] if (at := phase.changes_at(sale, now)) is not None]
    headers = _next(SALES_PATH, limit, page.data[-1].id if page.has_more else None)
    return Rendered(page.model_dump_json().encode(), min(changes, default=None), headers)


def _next(path: str, limit: int, cursor: int | None) -> list[tuple[bytes, bytes]]:
    if cursor is None:
        return []
    link = next_link(path, f"limit={limit}&starting_after={cursor}")["Link"]
    return [(b"link", link.encode())]
