"""The purchase as pure ASGI, in front of everything else: no database, no session, no model, no middleware.

It checks every purchase, and sells those of the sales that this process has learned of. Whatever it cannot answer goes
on to the ordinary route of the same path, which asks Postgres.
"""

import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shop.auth import Revocations, TokenVerifier
from shop.errors import Overloaded, ShopError, SoldOut, Unauthorized
from shop.idempotency.keys import parse_key
from shop.ledger.receipts import Signer
from shop.order_changes import Changes
from shop.rate_limit import RateLimiter, limit
from shop.seckill.accepted import accepted_body
from shop.seckill.group_commit import GroupCommit
from shop.seckill.polls import Polls
from shop.seckill.prepared import SoldOutAnswer
from shop.seckill.purchase import AskPostgres, Reservation, RolledBack, order_meant, purchase
from shop.seckill.requests import (
    PURCHASE_START,
    ClientGone,
    parse_body,
    purchase_headers,
    read_body,
    replay,
    require_json,
    sale_in_path,
    whole_purchase,
)
from shop.seckill.tally import Tally
from shop.seckill.waiting import Waiting, parse_wait
from shop.server.answers import (
    CONTENT_TYPE_JSON,
    CONTENT_TYPE_PROBLEM,
    Answer,
    PreparedProblem,
    refuse,
    respond,
    with_length,
)
from shop.server.gate import OverloadGate
from shop.settings import Settings

ROUTE = "/v1/seckill/sales/{sale_id}/orders"
REPLAYED = (b"idempotency-replayed", b"true")
# Set in the scope of a purchase that the gate was asked for before the application was.
ADMITTED = "shop.admitted"
OVERLOADED = PreparedProblem(Overloaded())
# The headers of that answer, for its length and the request's id.
OVERLOADED_HEADERS = [
    b"%b: %b\r\nretry-after: %d\r\ncontent-length: %%d\r\nx-request-id: %%b\r\n\r\n" % (*CONTENT_TYPE_PROBLEM, seconds)
    for seconds in range(1, 5)
]


async def _unknown(_: str) -> None:
    """Without Postgres, nothing but what the ledger knows."""


class PurchaseLane:
    """The fast way for `POST /v1/seckill/sales/{id}/orders`, and the server's `Admission`; others pass to `app`."""

    bulk_start = PURCHASE_START

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        gate: OverloadGate,
        limiter: RateLimiter,
        verifier: TokenVerifier,
        revocations: Revocations,
        changes: Changes,
        status_of: Callable[[str], Awaitable[str | None]] = _unknown,
    ) -> None:
        """`status_of` an order that was there before: what its row says by now, or None if that is not known."""
        self.limiter = limiter
        # (sale, epoch) whose ledger has lost an order that was reserved here; who follows the directory reports it.
        self.rolled_back: set[tuple[int, int]] = set()
        # Groups of earlier epochs: what they promised last may still have to be handed in (`shop.app.beats`).
        self.replaced: list[GroupCommit] = []
        self.tally = Tally("POST", ROUTE)
        self._app = app
        self.gate = gate
        self._verifier = verifier
        self._revocations = revocations
        self._signer = Signer(settings.secret)
        self._body_bytes_max = settings.purchase_body_bytes_max
        self._deadline_seconds = settings.purchase_deadline_seconds
        self._changes = changes
        self._status_of = status_of
        self.polls = Polls(settings)
        self._groups: dict[int, GroupCommit] = {}
        self._sold_out: dict[int, SoldOutAnswer] = {}
        self._request_id_prefix = os.urandom(8).hex().encode()
        self._request_numbers = itertools.count(1)

    def epoch_of(self, sale_id: int) -> int:
        """The epoch that this process sells in; 0 when it does not know the sale."""
        group = self._groups.get(sale_id)
        return group.sale.epoch if group else 0

    def take(self, group: GroupCommit) -> None:
        """Sell through this group from now on. A lower epoch than the known one is never taken."""
        if group.sale.epoch > self.epoch_of(group.sale.sale_id):
            sale = group.sale
            if sale.sale_id in self._groups:
                self.replaced.append(self._groups[sale.sale_id])
            self._groups[sale.sale_id] = group
            self._sold_out[sale.sale_id] = SoldOutAnswer(sale, self._signer)

    def leave(self, group: GroupCommit) -> None:
        """Sell no more through this group: its epoch is over, whatever the Redis that it reaches says."""
        if self._groups.get(group.sale.sale_id) is group:
            del self._groups[group.sale.sale_id]
            self.replaced.append(group)

    @property
    def groups(self) -> tuple[GroupCommit, ...]:
        """The ways to the ledgers that this process sells from."""
        return tuple(self._groups.values())

    def is_bulk(self, scope: Scope) -> bool:
        """Whether a request is this lane's."""
        return scope["method"] == "POST" and sale_in_path(scope["path"]) is not None

    def admit(self, scope: Scope) -> bytes | None:
        """The refusal of a purchase that would wait for too long; the server asks before it makes a task for it."""
        sale_id = sale_in_path(scope["path"]) if scope["method"] == "POST" else None
        if sale_id is None:
            return None
        if self._admits(sale_id):
            scope[ADMITTED] = True
            return None
        return self._overloaded(scope["path"], purchase_headers(scope)[3])

    def _admits(self, sale_id: int) -> bool:
        group = self._groups.get(sale_id)
        if group is not None and group.latch.closed:
            self.gate.remembers()
            return True
        return self.gate.admits(0.0 if group is None else group.queued_seconds)

    def admit_unparsed(self, data: bytes) -> bytes | None:
        """The same for what may be a whole purchase; to parse it would be half of what the refusal costs."""
        if (found := whole_purchase(data)) is None or (sale_id := sale_in_path(found[0])) is None:
            return None
        group = self._groups.get(sale_id)
        if group is not None and group.latch.closed:
            return None
        if not self.gate.refuses(0.0 if group is None else group.queued_seconds):
            return None
        return self._overloaded(*found)

    def _overloaded(self, path: str, request_id: bytes | None) -> bytes:
        request_id = request_id or self._new_request_id()
        body = OVERLOADED.body(path, request_id)
        self.tally.count(Overloaded.status, Overloaded.code)
        return OVERLOADED_HEADERS[random.getrandbits(2)] % (len(body), request_id) + body

    def answer(self, scope: Scope, body: bytes) -> Answer | None:
        """The answer to a whole purchase that needs no question: the sale is sold out, and this buyer has won nothing.

        None leaves it to the application, which says too what is wrong with a request.
        """
        sale_id = sale_in_path(scope["path"]) if scope["method"] == "POST" else None
        group = None if sale_id is None else self._groups.get(sale_id)
        if group is None or not group.latch.closed:
            return None
        started = time.perf_counter()
        authorization, key, media_type, request_id, _ = purchase_headers(scope)
        try:
            require_json(media_type)
            user_id, _, idempotency_key = self._checked(authorization, key, body)
        except ShopError:
            return None
        if not group.latch.knows_sold_out(order_meant(group.sale, user_id, idempotency_key)):
            return None
        request_id = request_id or self._new_request_id()
        answer = self._sold_out[group.sale.sale_id].body(group.latch.seq, scope["path"], request_id)
        self.tally.count(SoldOut.status, SoldOut.code, time.perf_counter() - started)
        return Answer(SoldOut.status, with_length([CONTENT_TYPE_PROBLEM], answer, request_id), answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sale_id = sale_in_path(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if sale_id is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        body = b""
        authorization, key, media_type, request_id, prefer = purchase_headers(scope)
        if request_id is None:
            request_id = self._new_request_id()
        try:
            if ADMITTED not in scope and not self._admits(sale_id):
                raise Overloaded
            body = await read_body(receive, self._body_bytes_max)
            if (answer := self.answer(scope, body)) is not None:
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                await send({"type": "http.response.body", "body": answer.body})
                return
            require_json(media_type)
            if prefer is None or (seconds := parse_wait(prefer)) == 0 or self._changes.full:
                status, outcome = await self._sell(scope["path"], authorization, key, body, request_id, send)
            else:
                with self._changes.listening() as listener:
                    waiting = Waiting(listener, seconds)
                    status, outcome = await self._sell(
                        scope["path"], authorization, key, body, request_id, send, waiting=waiting
                    )
                started += waiting.spent_seconds
        except AskPostgres as reason:
            if isinstance(reason, RolledBack):
                self.rolled_back.add((sale_id, reason.epoch))
            scope["shop.route"] = ROUTE
            await self._app(scope, replay(body, receive), send)
            return
        except ClientGone:
            return
        except ShopError as error:
            status, outcome = error.status, error.code
            await refuse(send, error, scope["path"], request_id)
        except Exception:
            self.tally.count(ShopError.status, ShopError.code, time.perf_counter() - started)
            raise
        self.tally.count(status, outcome, time.perf_counter() - started)

    async def _status_now(self, reservation: Reservation) -> str:
        """What has become of an order since. The ledger alone knows that it has its units, not that it is paid."""
        return await self._status_of(reservation.order_id) or ("held" if reservation.held else "released")

    def _new_request_id(self) -> bytes:
        return b"%b-%x" % (self._request_id_prefix, next(self._request_numbers))

    def _checked(self, authorization: bytes, key: bytes | None, body: bytes) -> tuple[str, int, str | None]:
        """The buyer, the units that he wants, and his idempotency key. Raises a ShopError."""
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized
        identity = self._verifier.verify(authorization[7:])
        self._revocations.check(identity)
        return identity.user_id, parse_body(body).quantity, None if key is None else parse_key(key.decode("latin-1"))

    async def _sell(
        self,
        path: str,
        authorization: bytes,
        key: bytes | None,
        body: bytes,
        request_id: bytes,
        send: Send,
        *,
        waiting: Waiting | None = None,
    ) -> tuple[int, str]:
        """Check the request, whichever sale it means, so that what is wrong with it has one answer; then sell.

        Returns the status and what became of the purchase. Raises a ShopError, or AskPostgres.
        """
        user_id, quantity, idempotency_key = self._checked(authorization, key, body)
        group = self._groups.get(sale_in_path(path) or 0)
        if group is None:
            await limit(self.limiter, user_id)
            raise AskPostgres
        wait = self.limiter.ask_process(user_id)
        if wait > 0:
            raise self.limiter.refusal(wait)
        reservation = await purchase(
            group,
            user_id=user_id,
            key=idempotency_key,
            quantity=quantity,
            signer=self._signer,
            deadline_seconds=self._deadline_seconds,
            expect=None if waiting is None else waiting.expect,
        )
        if isinstance(reservation, ShopError):
            await refuse(send, reservation, path, request_id)
            return reservation.status, reservation.code
        poll_after_ms = self.polls.after_ms()
        status_now = await self._status_now(reservation) if reservation.replayed else "reserved"
        answer = accepted_body(
            reservation, group.sale, user_id, poll_after_ms=poll_after_ms, signer=self._signer, status=status_now
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
