"""The purchase as pure ASGI, in front of everything else: no database, no session, no model, no middleware.

It checks every purchase, and sells those of the sales that this process has learned of. Whatever it cannot answer goes
on to the ordinary route of the same path, which asks Postgres.
"""

import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shop.errors import ShopError, SoldOut
from shop.ledger.receipts import Signer
from shop.order_news import Changes
from shop.rate_limit import RateLimiter, limit
from shop.seckill.accepted import accepted_body
from shop.seckill.checking import Checker, Wish
from shop.seckill.group_commit import GroupCommit
from shop.seckill.polls import Polls
from shop.seckill.purchase import AskPostgres, Reservation, RolledBack, purchase
from shop.seckill.registry import Registry
from shop.seckill.requests import ClientGone, RequestIds, purchase_headers, read_body, replay, sale_in_path
from shop.seckill.tally import Tally
from shop.seckill.waiting import Waiting, parse_wait
from shop.server.answers import CONTENT_TYPE_JSON, CONTENT_TYPE_PROBLEM, refuse, respond
from shop.settings import Settings

ROUTE = "/v1/seckill/sales/{sale_id}/orders"
REPLAYED = (b"idempotency-replayed", b"true")

StatusOf = Callable[[str], Awaitable[str | None]]


class PurchaseLane:
    """The fast way for `POST /v1/seckill/sales/{id}/orders`; every other request passes through to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        registry: Registry,
        checker: Checker,
        limiter: RateLimiter,
        changes: Changes,
        polls: Polls,
        request_ids: RequestIds,
        tally: Tally,
        status_of: StatusOf,
    ) -> None:
        """`status_of` an order that was there before: what its row says by now, or None if that is not known."""
        self._app = app
        self._registry = registry
        self._checker = checker
        self._limiter = limiter
        self._signer = Signer(settings.secret)
        self._body_bytes_max = settings.purchase_body_bytes_max
        self._deadline_seconds = settings.purchase_deadline_seconds
        self._changes = changes
        self._polls = polls
        self._request_ids = request_ids
        self._tally = tally
        self._status_of = status_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sale_id = sale_in_path(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if sale_id is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        body = b""
        headers = purchase_headers(scope)
        request_id = headers.request_id or self._request_ids.new()
        try:
            body = await read_body(receive, self._body_bytes_max)
            wish = self._checker.check(headers, body)
            found = self._registry.find(sale_id)
            if found is None:
                await self._limit(wish.user_id)
                raise AskPostgres
            if (refusal := found.cached_refusal(wish, scope["path"], request_id)) is not None:
                status, outcome = SoldOut.status, SoldOut.code
                await respond(send, status, [CONTENT_TYPE_PROBLEM], refusal, request_id)
            elif headers.prefer is None or (seconds := parse_wait(headers.prefer)) == 0 or self._changes.full:
                status, outcome = await self._sell(found.group, wish, scope["path"], request_id, send)
            else:
                with self._changes.listening() as listener:
                    waiting = Waiting(listener, seconds)
                    status, outcome = await self._sell(
                        found.group, wish, scope["path"], request_id, send, waiting=waiting
                    )
                started += waiting.spent_seconds
        except AskPostgres as reason:
            if isinstance(reason, RolledBack):
                self._registry.rolled_back.add((sale_id, reason.epoch))
            await self._app(scope, replay(body, receive), send)
            return
        except ClientGone:
            return
        except ShopError as error:
            status, outcome = error.status, error.code
            await refuse(send, error, scope["path"], request_id)
        except Exception:
            self._tally.count(ShopError.status, ShopError.code, time.perf_counter() - started)
            raise
        self._tally.count(status, outcome, time.perf_counter() - started)

    async def _sell(
        self,
        group: GroupCommit,
        wish: Wish,
        path: str,
        request_id: bytes,
        send: Send,
        *,
        waiting: Waiting | None = None,
    ) -> tuple[int, str]:
        """Reserve, and answer. Returns the status and what became of it. Raises a ShopError, or AskPostgres."""
        await self._limit(wish.user_id)
        reservation = await purchase(
            group,
            user_id=wish.user_id,
            key=wish.key,
            quantity=wish.quantity,
            signer=self._signer,
            deadline_seconds=self._deadline_seconds,
            expect=None if waiting is None else waiting.expect,
        )
        if isinstance(reservation, ShopError):
            await refuse(send, reservation, path, request_id)
            return reservation.status, reservation.code
        poll_after_ms = self._polls.after_ms()
        status_now = await self._status_now(reservation) if reservation.replayed else "reserved"
        answer = accepted_body(
            reservation, group.sale, wish.user_id, poll_after_ms=poll_after_ms, signer=self._signer, status=status_now
        )
        location = (b"location", b"/v1/orders/" + reservation.order_id.encode())
        if reservation.replayed:
            await respond(send, 200, [CONTENT_TYPE_JSON, location, REPLAYED], answer, request_id)
            return 200, "replayed"
        status, headers = 202, [CONTENT_TYPE_JSON, location]
        if waiting is not None:
            status = 201 if await waiting.recorded() else 202
            headers += waiting.applied
        await respond(send, status, headers, answer, request_id)
        return status, "reserved"

    async def _limit(self, user_id: str) -> None:
        """Admit this buyer, or raise RateLimited."""
        if not self._limiter.admits_idle(user_id):
            await limit(self._limiter, user_id)

    async def _status_now(self, reservation: Reservation) -> str:
        """What has become of an order since. The ledger alone knows that it has its units, not that it is paid."""
        return await self._status_of(reservation.order_id) or ("held" if reservation.held else "released")
