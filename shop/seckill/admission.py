"""The purchase at the server's door: shed when it would wait too long, answered there if one question decides it."""

import random
import time

from starlette.types import Scope

from shop.errors import Overloaded, ShopError, SoldOut
from shop.seckill.checking import Checker
from shop.seckill.direct import DirectSale
from shop.seckill.registry import Registry
from shop.seckill.requests import PURCHASE_START, RequestIds, purchase_headers, sale_in_path
from shop.seckill.tally import Tally
from shop.seckill.whole_purchases import whole_purchase
from shop.server.answers import CONTENT_TYPE_PROBLEM, Answer, PreparedProblem, Reply, with_length
from shop.server.gate import OverloadGate

OVERLOADED = PreparedProblem(Overloaded())
# The headers of that answer, for its length and the request's id.
OVERLOADED_HEADERS = [
    b"%b: %b\r\nretry-after: %d\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n\r\n" % (*CONTENT_TYPE_PROBLEM, seconds)
    for seconds in range(1, 5)
]


class PurchaseAdmission:
    """The `shop.server.admission.Admission` of purchases; every other request is admitted."""

    bulk_start = PURCHASE_START

    def __init__(
        self,
        *,
        registry: Registry,
        gate: OverloadGate,
        checker: Checker,
        direct: DirectSale,
        request_ids: RequestIds,
        tally: Tally,
    ) -> None:
        self._registry = registry
        self._gate = gate
        self._checker = checker
        self._direct = direct
        self._request_ids = request_ids
        self._tally = tally

    def is_bulk(self, scope: Scope) -> bool:
        """Whether a request is a purchase."""
        return scope["method"] == "POST" and sale_in_path(scope["path"]) is not None

    def admit(self, scope: Scope) -> bytes | None:
        """The refusal of a purchase that would wait for too long; the server asks before it makes a task for it."""
        sale_id = sale_in_path(scope["path"]) if scope["method"] == "POST" else None
        if sale_id is None:
            return None
        found = self._registry.find(sale_id)
        if found is not None and found.group.latch.closed:
            self._gate.count_latched()
            return None
        if self._gate.admits(0.0 if found is None else found.group.queued_seconds):
            return None
        return self._overloaded(scope["path"], purchase_headers(scope).request_id)

    def begin_unparsed(self, data: bytes, reply: Reply) -> bytes | bool:
        """Begin, or refuse, what is a whole purchase; to parse it would cost more than its signature."""
        whole = whole_purchase(data)
        if whole is None:
            return False
        found = self._registry.find(whole.sale_id)
        latched = found is not None and found.group.latch.closed
        if not latched and self._gate.refuses(0.0 if found is None else found.group.queued_seconds):
            return self._overloaded(whole.path, whole.headers.request_id)
        if found is None or not self._direct.begin(found, whole, reply):
            return False
        if latched:
            self._gate.count_latched()
        else:
            self._gate.count_admitted()
        return True

    def _overloaded(self, path: str, request_id: bytes | None) -> bytes:
        request_id = request_id or self._request_ids.new()
        body = OVERLOADED.body(path, request_id)
        self._tally.count(Overloaded.status, Overloaded.code)
        return OVERLOADED_HEADERS[random.getrandbits(2)] % (len(body), request_id) + body

    def answer(self, scope: Scope, body: bytes) -> Answer | None:
        """The answer to a parsed purchase that needs no question: nothing is left, and this buyer has won nothing.

        None leaves it to the application, which says too what is wrong with a request.
        """
        sale_id = sale_in_path(scope["path"]) if scope["method"] == "POST" else None
        found = None if sale_id is None else self._registry.find(sale_id)
        if found is None or not found.group.latch.closed:
            return None
        started = time.perf_counter()
        headers = purchase_headers(scope)
        request_id = headers.request_id or self._request_ids.new()
        try:
            refusal = found.cached_refusal(self._checker.check(headers, body), scope["path"], request_id)
        except ShopError:
            return None
        if refusal is None:
            return None
        self._tally.count(SoldOut.status, SoldOut.code, time.perf_counter() - started)
        return Answer(SoldOut.status, with_length([CONTENT_TYPE_PROBLEM], refusal, request_id), refusal)
