"""The sale at the server's door: a purchase that one question to the ledger decides, without scope and task.

A purchase that is whole in one read is checked, waits in the group commit, and its answer is written when the ledger
has spoken. Whatever is unusual, or wrong with it, is left to the lane, which reads everything anew: a repeat, a buyer
who is not idle, a ledger that does not sell.
"""

import time
from functools import partial

import msgspec
import structlog

from shop.batching import Failed
from shop.errors import ShopError, SoldOut
from shop.ledger.client import Answer, ReserveRequest
from shop.ledger.receipts import Signer
from shop.rate_limit import RateLimiter
from shop.redis import NotSent
from shop.seckill.accepted import accepted_body
from shop.seckill.checking import Checker, Wish
from shop.seckill.polls import Polls
from shop.seckill.purchase import AskPostgres, Reservation, is_over, noted, order_meant, reservation_of, what_failed
from shop.seckill.registry import OnSale
from shop.seckill.requests import RequestIds
from shop.seckill.tally import Tally
from shop.seckill.whole_purchases import WholePurchase
from shop.server.answers import CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, Reply, WholeAnswer
from shop.server.answers import refusal as answer_of
from shop.server.heads import whole_answer

ACCEPTED = (
    b"%b: %b\r\nlocation: /v1/orders/%%b\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n\r\n%%b" % CONTENT_TYPE_JSON
)
SOLD_OUT = b"%b: %b\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n\r\n%%b" % CONTENT_TYPE_PROBLEM

log = structlog.get_logger(__name__)


class _Purchase(msgspec.Struct, frozen=True, gc=False):
    """A purchase that waits for the ledger."""

    sale: OnSale
    wish: Wish
    order_id: bytes
    path: str
    request_id: bytes
    reply: Reply
    started: float


class DirectSale:
    """Sells to whom one question to the ledger answers."""

    def __init__(
        self,
        *,
        checker: Checker,
        limiter: RateLimiter,
        signer: Signer,
        polls: Polls,
        request_ids: RequestIds,
        tally: Tally,
        body_bytes_max: int,
    ) -> None:
        self._checker = checker
        self._limiter = limiter
        self._signer = signer
        self._polls = polls
        self._request_ids = request_ids
        self._tally = tally
        self._body_bytes_max = body_bytes_max

    def begin(self, sale: OnSale, whole: WholePurchase, reply: Reply) -> bool:
        """Whether `reply` has been called, or will be; False means that nothing was done."""
        started = time.perf_counter()
        if len(whole.body) > self._body_bytes_max:
            return False
        try:
            wish = self._checker.check(whole.headers, whole.body)
        except ShopError:
            return False
        request_id = whole.headers.request_id or self._request_ids.new()
        if (refusal := sale.cached_refusal(wish, whole.path, request_id)) is not None:
            self._tally.count(SoldOut.status, SoldOut.code, time.perf_counter() - started)
            reply(WholeAnswer(SoldOut.status, SOLD_OUT % (len(refusal), request_id, refusal)))
            return True
        if not self._limiter.admits_idle(wish.user_id):
            return False
        order_id = order_meant(sale.group.sale, wish.user_id, wish.key)
        purchase = _Purchase(sale, wish, order_id, whole.path, request_id, reply, started)
        try:
            sale.group.submit(ReserveRequest(order_id, wish.user_id, wish.quantity), partial(self._told, purchase))
        except NotSent:
            self._limiter.refund(wish.user_id)
            return False
        return True

    def _told(self, purchase: _Purchase, answer: Answer | Failed) -> None:
        """The ledger has answered, or it has not: so does the shop, whatever that was."""
        try:
            told = self._answer(purchase, answer)
        except Exception as error:
            log.error("purchase_not_answered", exc_info=error)
            told = None
        if told is None:
            self._limiter.refund(purchase.wish.user_id)
        purchase.reply(told)

    def _answer(self, purchase: _Purchase, answer: Answer | Failed) -> WholeAnswer | None:
        """What the buyer is told; None leaves it to the lane."""
        sale, wish, order_id = purchase.sale.group.sale, purchase.wish, purchase.order_id
        try:
            if isinstance(answer, Failed):
                raise what_failed(answer.error)
            found: Reservation | ShopError = reservation_of(
                order_id, wish.quantity, noted(purchase.sale.group, answer), sale, self._signer
            )
            if is_over(answer):
                return None
        except AskPostgres:
            return None
        except ShopError as error:
            found = error
        seconds = time.perf_counter() - purchase.started
        if isinstance(found, ShopError):
            self._tally.count(found.status, found.code, seconds)
            return whole_answer(answer_of(found, purchase.path, purchase.request_id))
        if found.replayed:
            return None
        body = accepted_body(found, sale, wish.user_id, poll_after_ms=self._polls.after_ms(), signer=self._signer)
        self._tally.count(202, "reserved", seconds)
        return WholeAnswer(202, ACCEPTED % (found.order_id.encode(), len(body), purchase.request_id, body))
