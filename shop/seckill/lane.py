"""The purchase as pure ASGI, in front of everything else: no database, no session, no model, no middleware.

It checks every purchase, and sells those of the sales that this process has learned of. Whatever it cannot answer goes
on to the ordinary route of the same path, which asks Postgres.
"""

import itertools
import os
import random
import re
import time
from typing import NamedTuple

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.auth import BlockedUsers, TokenVerifier
from shop.errors import BodyTooLarge, Overloaded, ShopError, SoldOut, Unauthorized, UnsupportedMediaType, UserBlocked
from shop.idempotency.keys import parse_key
from shop.order_changes import Changes
from shop.problem_json import MEDIA_TYPE, problem
from shop.rate_limit import RateLimiter, limit
from shop.seckill.accepted import accepted_body
from shop.seckill.gate import OverloadGate
from shop.seckill.group_commit import GroupCommit
from shop.seckill.polls import Polls
from shop.seckill.prepared import PreparedProblem, SoldOutAnswer
from shop.seckill.purchase import AskPostgres, RolledBack, order_meant, purchase
from shop.seckill.receipts import Signer
from shop.seckill.requests import parse_body, sale_in_path
from shop.seckill.tally import Tally
from shop.seckill.waiting import Waiting, parse_wait
from shop.settings import Settings

ROUTE = "/v1/seckill/sales/{sale_id}/orders"
ROUTE_OF = "/v1/seckill/sales/%d/orders"
JSON = b"application/json"
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
CONTENT_TYPE_JSON = (b"content-type", JSON)
CONTENT_TYPE_PROBLEM = (b"content-type", MEDIA_TYPE.encode())
REPLAYED = (b"idempotency-replayed", b"true")


OVERLOADED = PreparedProblem(Overloaded())
RETRY_OVERLOADED = [(b"retry-after", b"%d" % seconds) for seconds in range(1, 5)]


class Refusal(NamedTuple):
    """An answer that needs no application: its status, its headers, its body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class PurchaseLane:
    """The fast way for `POST /v1/seckill/sales/{id}/orders`; every other request passes through to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        gate: OverloadGate,
        limiter: RateLimiter,
        verifier: TokenVerifier,
        blocked: BlockedUsers,
        changes: Changes,
    ) -> None:
        self.limiter = limiter
        # (sale, epoch) whose ledger has lost an order that was reserved here; who follows the directory reports it.
        self.rolled_back: set[tuple[int, int]] = set()
        # Groups of earlier epochs: what they promised last may still have to be handed in (`shop.app.beats`).
        self.replaced: list[GroupCommit] = []
        self.tally = Tally("POST", ROUTE)
        self._app = app
        self.gate = gate
        self._verifier = verifier
        self._blocked = blocked
        self._signer = Signer(settings.secret)
        self._body_bytes_max = settings.purchase_body_bytes_max
        self._deadline_seconds = settings.purchase_deadline_seconds
        self._changes = changes
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

    async def poll_latches(self) -> None:
        """Look whether a sale that was sold out has units again."""
        for group in self.groups:  # a sale may be taken while a poll waits
            await group.latch.poll()

    def is_purchase(self, scope: Scope) -> bool:
        """Whether a request is this lane's."""
        return scope["method"] == "POST" and sale_in_path(scope["path"]) is not None

    def shed(self, scope: Scope) -> Refusal | None:
        """The refusal of a purchase that would wait for too long; the server asks before it makes a task for it."""
        sale_id = sale_in_path(scope["path"]) if scope["method"] == "POST" else None
        if sale_id is None:
            return None
        group = self._groups.get(sale_id)
        if group is not None and group.latch.closed:
            self.gate.remembers()
            return None
        if self.gate.admits(0.0 if group is None else group.queued_seconds):
            return None
        request_id = _headers(scope)[3] or self._new_request_id()
        body = OVERLOADED.body(scope["path"], request_id)
        headers = [CONTENT_TYPE_PROBLEM, random.choice(RETRY_OVERLOADED)]  # noqa: S311 - no secret
        self.tally.count(Overloaded.status, Overloaded.code, 0.0)
        return Refusal(Overloaded.status, _with_length(headers, body, request_id), body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sale_id = sale_in_path(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if sale_id is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        body = b""
        authorization, key, media_type, request_id, prefer = _headers(scope)
        if request_id is None:
            request_id = self._new_request_id()
        try:
            body = await _read_body(receive, self._body_bytes_max)
            if media_type is not None and media_type != JSON and media_type.partition(b";")[0].strip().lower() != JSON:
                raise UnsupportedMediaType
            if prefer is None or (seconds := parse_wait(prefer)) == 0 or self._changes.full:
                status, outcome = await self._sell(sale_id, authorization, key, body, request_id, send)
            else:
                with self._changes.listening() as listener:
                    waiting = Waiting(listener, seconds)
                    status, outcome = await self._sell(
                        sale_id, authorization, key, body, request_id, send, waiting=waiting
                    )
                started += waiting.spent_seconds
        except AskPostgres as reason:
            if isinstance(reason, RolledBack):
                self.rolled_back.add((sale_id, reason.epoch))
            scope["shop.route"] = ROUTE
            await self._app(scope, _replay(body, receive), send)
            return
        except ClientGone:
            return
        except ShopError as error:
            status, outcome = error.status, error.code
            await _refuse(send, error, scope["path"], request_id)
        self.tally.count(status, outcome, time.perf_counter() - started)

    def _new_request_id(self) -> bytes:
        return b"%b-%x" % (self._request_id_prefix, next(self._request_numbers))

    async def _sell(
        self,
        sale_id: int,
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
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized
        user_id = self._verifier.verify(authorization[7:]).user_id
        if user_id in self._blocked:
            raise UserBlocked
        quantity = parse_body(body).quantity
        idempotency_key = None if key is None else parse_key(key.decode("latin-1"))
        group = self._groups.get(sale_id)
        if group is None:
            await limit(self.limiter, user_id)
            raise AskPostgres
        if group.latch.closed and group.latch.knows_sold_out(order_meant(group.sale, user_id, idempotency_key)):
            answer = self._sold_out[sale_id].body(group.latch.seq, ROUTE_OF % sale_id, request_id)
            await _respond(send, SoldOut.status, [CONTENT_TYPE_PROBLEM], answer, request_id)
            return SoldOut.status, SoldOut.code
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
        poll_after_ms = self.polls.after_ms()
        answer = accepted_body(reservation, group.sale, user_id, poll_after_ms=poll_after_ms, signer=self._signer)
        location = (b"location", b"/v1/orders/" + reservation.order_id.encode())
        if reservation.replayed:
            await _respond(send, 200, [CONTENT_TYPE_JSON, location, REPLAYED], answer, request_id)
            return 200, "replayed"
        status, headers = 202, [CONTENT_TYPE_JSON, location]
        if waiting is not None:
            status = 201 if await waiting.recorded() else 202
            headers += waiting.applied
        await _respond(send, status, headers, answer, request_id)
        return status, "reserved"


def _headers(scope: Scope) -> tuple[bytes, bytes | None, bytes | None, bytes | None, bytes | None]:
    """What a purchase's headers say: authorization, idempotency key, media type, request id, preferences.

    Of two tokens or keys the first counts, as on the other routes.
    """
    authorization, key, media_type, request_id, prefer = None, None, None, None, None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value if authorization is None else authorization
        elif name == b"idempotency-key":
            key = value if key is None else key
        elif name == b"content-type":
            media_type = value
        elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value
        elif name == b"prefer":
            prefer = value if prefer is None else prefer + b"," + value
    return authorization or b"", key, media_type, request_id, prefer


async def _read_body(receive: Receive, bytes_max: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > bytes_max:
            raise BodyTooLarge(f"A purchase has at most {bytes_max} bytes")
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """The request's body once more, for the route behind."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _with_length(headers: list[tuple[bytes, bytes]], body: bytes, request_id: bytes) -> list[tuple[bytes, bytes]]:
    return [*headers, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]


async def _refuse(send: Send, error: ShopError, path: str, request_id: bytes) -> None:
    document = problem(error, instance=path, request_id=request_id.decode())
    headers = [CONTENT_TYPE_PROBLEM]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await _respond(send, error.status, headers, msgspec.json.encode(document), request_id)


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, request_id: bytes) -> None:
    headers = _with_length(headers, body, request_id)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
