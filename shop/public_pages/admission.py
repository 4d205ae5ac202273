"""Public pages at the server's door: answered from memory, before there is a task; 304 for who has the page already."""

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from starlette.types import Scope

from shop.bounds import PAGE_MAX
from shop.errors import BadRequest, ProductNotFound, SaleNotFound, ShopError, Unavailable
from shop.http_headers import matches
from shop.ledger.order_ids import SALE_ID_MAX
from shop.public_pages.memory import Key, PageMemory
from shop.public_pages.page import Page
from shop.public_pages.reading import HOT, HOT_PATH, PRODUCT, PRODUCTS, PRODUCTS_PATH, SALE, SALES, SALES_PATH
from shop.seckill.requests import REQUEST_ID, RequestIds
from shop.seckill.tally import Tally
from shop.server.answers import CONTENT_TYPE_JSON, Answer, Headers, answer_when, refusal, with_length

TIME_PATH = "/v1/time"
LIMIT_DEFAULT = 20
ONE = re.compile(r"(/v1/seckill/sales|/v1/products)/([1-9][0-9]{0,9})")
LIST_OF = {SALES_PATH: SALES, PRODUCTS_PATH: PRODUCTS, HOT_PATH: HOT}
ONE_OF = {SALES_PATH: SALE, PRODUCTS_PATH: PRODUCT}
ROUTES = {
    SALE: f"{SALES_PATH}/{{sale_id}}",
    SALES: SALES_PATH,
    PRODUCT: f"{PRODUCTS_PATH}/{{product_id}}",
    PRODUCTS: PRODUCTS_PATH,
    HOT: HOT_PATH,
}
MISSING: dict[str, type[ShopError]] = {SALE: SaleNotFound, PRODUCT: ProductNotFound}
LIMIT = re.compile(r"[1-9][0-9]{0,2}")
# How long it may be told how much is left: an old "none" would keep somebody from buying.
STATE_SECONDS_MAX = 2.0
AGE_SECONDS_MIN = 1.0  # what is younger has no Age: its clients' clocks are no better


class PublicPages:
    """Answers what everybody may read; None leaves a request to the application, which says too what is wrong with it.

    The `answer` of a `shop.server.admission.Admission`.
    """

    def __init__(self, memory: PageMemory, request_ids: RequestIds, count_read: Callable[[int], None]) -> None:
        """`count_read` is told of each answer with a product."""
        self._memory = memory
        self._count_read = count_read
        self._request_ids = request_ids
        self._tallies = {kind: Tally("GET", route) for kind, route in {**ROUTES, TIME_PATH: TIME_PATH}.items()}
        self.tallies = tuple(self._tallies.values())

    def answer(self, scope: Scope) -> "Answer | asyncio.Future[Answer] | None":
        """The answer to a GET or HEAD of a public page, or a future that brings it."""
        if scope["method"] not in {"GET", "HEAD"}:
            return None
        if scope["path"] == TIME_PATH:
            return self._time(scope)
        key = _key(scope["path"], scope["query_string"])
        if key is None:
            return None
        started = time.perf_counter()
        found = self._memory.find(key)
        if isinstance(found, Page):
            return self._answered(key, self._page(found, scope), started)
        return answer_when(found, lambda done: self._answered(key, self._later(key, done, scope), started))

    def _answered(self, key: Key, answer: Answer, started: float) -> Answer:
        self._tallies[key.kind].count(answer.status, None, time.perf_counter() - started)
        if key.kind == PRODUCT and answer.status < BadRequest.status:
            self._count_read(key.number)
        return answer

    def _later(self, key: Key, done: "asyncio.Future[Page | None]", scope: Scope) -> Answer:
        error = done.exception()
        page = None if error is not None else done.result()
        if page is not None:
            return self._page(page, scope)
        problem = MISSING[key.kind]() if error is None else Unavailable()
        return refusal(problem, scope["path"], _told(scope)[1] or self._request_ids.new())

    def _page(self, page: Page, scope: Scope) -> Answer:
        known, request_id = _told(scope)
        request_id = request_id or self._request_ids.new()
        age = time.monotonic() - page.asked_at
        is_aged = age >= STATE_SECONDS_MAX
        if page.is_outdated(now := time.time(), aged=is_aged):
            page.redraw(now, aged=is_aged)
        aged: Headers = [(b"age", b"%d" % age)] if age >= AGE_SECONDS_MIN else []
        if known is not None and (known == page.tag or matches(known.decode("latin-1"), page.tag.decode())):
            return Answer(304, [*page.kept, *aged, (b"x-request-id", request_id)], b"")
        return Answer(200, with_length([*page.headers, *aged], page.body, request_id), page.body)

    def _time(self, scope: Scope) -> Answer:
        body = b'{"object":"time","server_time":"%b"}' % datetime.now(UTC).isoformat().encode()
        headers = [CONTENT_TYPE_JSON, (b"cache-control", b"no-store")]
        self._tallies[TIME_PATH].count(200, None, 0.0)
        return Answer(200, with_length(headers, body, _told(scope)[1] or self._request_ids.new()), body)


def _key(path: str, query: bytes) -> Key | None:
    """Which page is asked for; None for what is none, or is not kept, or is asked for in a way that may be wrong."""
    if (kind := LIST_OF.get(path)) is not None:
        limit = _limit(query) if query else LIMIT_DEFAULT
        return None if limit is None else Key(kind, limit)
    named = ONE.fullmatch(path)
    if named is None or int(named[2]) > SALE_ID_MAX:
        return None
    return Key(ONE_OF[named[1]], int(named[2]))


def _limit(query: bytes) -> int | None:
    """How many a list is to have; None for a later page, or a limit that is none. What is unknown is ignored."""
    wanted: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "starting_after" or (name == "limit" and name in wanted):
            return None
        wanted[name] = value
    limit = wanted.get("limit", str(LIMIT_DEFAULT))
    return int(limit) if LIMIT.fullmatch(limit) and int(limit) <= PAGE_MAX else None


def _told(scope: Scope) -> tuple[bytes | None, bytes | None]:
    """The entity tags that the client knows, and the id of its request."""
    known, request_id = None, None
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            known = value if known is None else known + b"," + value
        elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value
    return known, request_id
