"""Polls of an order at the server's door: the token is checked, then many are read together; 304 for who knows it."""

import asyncio
import re
import time
from typing import NamedTuple

from starlette.types import Scope

from shop.errors import OrderNotFound, ShopError, Unavailable
from shop.failure_isolation import SERVER_ERRORS
from shop.order_states.polling import Found, Poll, State
from shop.order_states.reading import Later, StateReader
from shop.redis import NotSent
from shop.seckill.checking import Checker
from shop.seckill.requests import REQUEST_ID, RequestIds
from shop.seckill.tally import Tally
from shop.server.answers import CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, Answer, PreparedProblem, answer_when, refusal

PATH_START = "/v1/orders/"
PATH = re.compile(PATH_START + r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")
ROUTE = "/v1/orders/{order_id}"
# A browser keeps the answer, and asks each time whether it still holds. As the route says it in `shop.orders.router`.
CACHE_CONTROL, VARY = (b"cache-control", b"private, no-cache"), (b"vary", b"Authorization")
NOT_FOUND = PreparedProblem(OrderNotFound())


class OrderStates:
    """Answers `GET /v1/orders/{id}`; None leaves a request to the route: one with a receipt claims what was lost."""

    def __init__(self, reader: StateReader, checker: Checker, request_ids: RequestIds) -> None:
        self._reader = reader
        self._checker = checker
        self._request_ids = request_ids
        self.tally = Tally("GET", ROUTE)

    def answer(self, scope: Scope) -> "Answer | asyncio.Future[Answer] | None":
        """See `shop.server.admission.Admission`."""
        named = PATH.fullmatch(scope["path"])
        if named is None or scope["method"] not in {"GET", "HEAD"}:
            return None
        began = time.perf_counter()
        authorization, known, request_id = None, None, None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value if authorization is None else authorization
            elif name == b"if-none-match":
                known = value if known is None else known + b"," + value
            elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                request_id = value
            elif name == b"receipt":
                return None
        request = _Request(scope["path"], request_id or self._request_ids.new(), began)
        tags = None if known is None else known.decode("latin-1")
        try:
            buyer = self._checker.identify(authorization or b"")
            found = self._reader.ask(Poll(named[1].lower(), buyer.user_id, tags, time.monotonic()))
        except (ShopError, NotSent) as error:
            return self._tell(request, error)
        return answer_when(found, lambda done: self._told(request, done))

    def _told(self, request: "_Request", done: "asyncio.Future[Found | Later]") -> "Answer | asyncio.Future[Answer]":
        error = done.exception()
        found = done.result() if error is None else error
        if isinstance(found, asyncio.Future):
            return answer_when(found, lambda later: self._tell(request, later.result()))
        return self._tell(request, found)

    def _tell(self, request: "_Request", found: State | BaseException | None) -> Answer:
        try:
            answer = _answer(request, found)
        except Exception:
            self.tally.count(ShopError.status, None, time.perf_counter() - request.began)
            raise
        self.tally.count(answer.status, None, time.perf_counter() - request.began)
        return answer


class _Request(NamedTuple):
    """A request that waits for its answer since a time of `time.perf_counter`."""

    path: str
    id: bytes
    began: float


def _answer(request: _Request, found: State | BaseException | None) -> Answer:
    """What is told of a state, or of why there is none. Raises what nobody foresaw: the server answers 500."""
    own = (b"x-request-id", request.id)
    if isinstance(found, State):
        tag = (b"etag", found.tag.encode())
        if found.body is None:
            return Answer(304, [tag, CACHE_CONTROL, VARY, own], b"")
        length = (b"content-length", b"%d" % len(found.body))
        return Answer(200, [CONTENT_TYPE_JSON, tag, CACHE_CONTROL, VARY, length, own], found.body)
    if found is None or isinstance(found, OrderNotFound):
        body = NOT_FOUND.body(request.path, request.id)
        return Answer(OrderNotFound.status, [CONTENT_TYPE_PROBLEM, (b"content-length", b"%d" % len(body)), own], body)
    if isinstance(found, (*SERVER_ERRORS, NotSent)):
        found = Unavailable()
    if not isinstance(found, ShopError):
        raise found
    return refusal(found, request.path, request.id)
