"""The purchase as pure ASGI, in front of everything else: no database, no session, no model, no middleware class.

It checks every purchase, and sells those of the sales that this process has learned of. Whatever it cannot answer goes
on to the ordinary route of the same path, which asks Postgres.
"""

from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop import metrics
from shop.auth import BlockedUsers, TokenVerifier
from shop.errors import (
    MEDIA_TYPE,
    BodyTooLarge,
    ShopError,
    Unauthorized,
    UnsupportedMediaType,
    UserBlocked,
    problem,
)
from shop.rate_limit import RateLimiter, limit
from shop.seckill.group_commit import GroupCommit
from shop.seckill.ledger import LoadedSale
from shop.seckill.purchase import AskPostgres, Reservation, RolledBack, iso_time, purchase, receipt_of
from shop.seckill.receipts import Signer
from shop.seckill.requests import parse_body, parse_key, sale_in_path
from shop.settings import Settings

ROUTE = "/v1/seckill/sales/{sale_id}/orders"
JSON = b"application/json"


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class PurchaseLane:
    """The fast way for `POST /v1/seckill/sales/{id}/orders`; every other request passes through to `app`."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, limiter: RateLimiter, verifier: TokenVerifier, blocked: BlockedUsers
    ) -> None:
        self._app = app
        self._settings = settings
        self._limiter = limiter
        self._verifier = verifier
        self._blocked = blocked
        self._signer = Signer(settings.secret)
        self._groups: dict[int, GroupCommit] = {}
        # Sales whose ledger has lost an order that was reserved here; whoever follows the directory reports them.
        self.rolled_back: set[int] = set()

    def epoch_of(self, sale_id: int) -> int:
        """The epoch that this process sells in; 0 when it does not know the sale."""
        group = self._groups.get(sale_id)
        return group.sale.epoch if group else 0

    def take(self, group: GroupCommit) -> None:
        """Sell through this group from now on. A lower epoch than the known one is never taken."""
        if group.sale.epoch > self.epoch_of(group.sale.sale_id):
            self._groups[group.sale.sale_id] = group

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sale_id = sale_in_path(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if sale_id is None:
            await self._app(scope, receive, send)
            return
        scope["shop.route"] = ROUTE
        body = b""
        try:
            body = await _read_body(receive, self._settings.purchase_body_bytes_max)
            await self._sell(sale_id, scope, body, send)
        except AskPostgres as reason:
            if isinstance(reason, RolledBack):
                self.rolled_back.add(sale_id)
            await self._app(scope, _replay(body, receive), send)
        except ClientGone:
            return
        except ShopError as error:
            await _refuse(send, error, scope)

    async def _sell(self, sale_id: int, scope: Scope, body: bytes, send: Send) -> None:
        """Check the request, whichever sale it means, so that what is wrong with it has one answer; then sell."""
        authorization, key_header = _headers(scope)
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized
        identity = self._verifier.verify(authorization[7:])
        if identity.user_id in self._blocked:
            raise UserBlocked
        quantity = parse_body(body).quantity
        key = parse_key(key_header)
        await limit(self._limiter, identity.user_id)
        group = self._groups.get(sale_id)
        if group is None:
            raise AskPostgres
        reservation = await purchase(
            group,
            user_id=identity.user_id,
            key=key,
            quantity=quantity,
            signer=self._signer,
            deadline_seconds=self._settings.purchase_deadline_seconds,
        )
        await self._accept(send, reservation, group.sale, identity.user_id)

    async def _accept(self, send: Send, reservation: Reservation, sale: LoadedSale, user_id: str) -> None:
        metrics.PURCHASES.labels("replayed" if reservation.replayed else "reserved").inc()
        order_id = str(reservation.order_id)
        headers = {"Location": f"/v1/orders/{order_id}", "Content-Type": "application/json"}
        if reservation.replayed:
            headers["Idempotency-Replayed"] = "true"
        answer = {
            "object": "order",
            "id": order_id,
            "status": "reserved" if reservation.held else "released",
            "sale_id": sale.sale_id,
            "quantity": reservation.quantity,
            "total_minor": reservation.quantity * sale.price_minor,
            "currency": sale.currency,
            "reserved_at": iso_time(reservation.reserved_ms),
            "expires_not_before": iso_time(reservation.reserved_ms + sale.hold_seconds * 1000),
            "poll_after_ms": self._settings.poll_after_ms,
            "receipt": self._signer.sign(receipt_of(reservation, sale, user_id)),
        }
        await _respond(send, 200 if reservation.replayed else 202, headers, msgspec.json.encode(answer))


def _headers(scope: Scope) -> tuple[bytes, str | None]:
    authorization, key = b"", None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"idempotency-key":
            key = value.decode("latin-1")
        elif name == b"content-type" and value.partition(b";")[0].strip().lower() != JSON:
            raise UnsupportedMediaType
    return authorization, key


async def _read_body(receive: Receive, bytes_max: int) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        body += chunk
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


async def _refuse(send: Send, error: ShopError, scope: Scope) -> None:
    metrics.PURCHASES.labels(error.code).inc()
    document = problem(error, instance=scope["path"], request_id=scope.get("request_id", ""))
    await _respond(send, error.status, {**error.headers, "Content-Type": MEDIA_TYPE}, msgspec.json.encode(document))


async def _respond(send: Send, status: int, headers: dict[str, Any], body: bytes) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
