"""Everything the shop refuses; `shop.problem_json` turns a refusal into a document.

ShopError                 a refusal: nothing was changed (but see UnknownOutcome)
├── BadRequest            400  the request cannot be read
├── Unauthorized          401  no valid token
├── Forbidden             403  a valid token without the right
├── NotFound              404  no such thing, or not yours
├── MethodNotAllowed      405  another method than those of the path
├── RequestTimeout        408  the request came too slowly
├── Conflict              409  the state of things does not allow it
├── Gone                  410  it is over
├── BodyTooLarge          413  more bytes than this route takes
├── UnsupportedMediaType  415  not JSON
├── Invalid               422  well-formed, but a rule is broken
├── RateLimited           429  too many tries; come back later
├── HeadTooLarge          431  more headers than anybody needs
├── Unavailable           503  definitely not executed; come back later
└── UnknownOutcome        504  perhaps executed: retry with the same key and you get the truth

A broken invariant is not a refusal: it stops the work and rings the alarm, see `shop.orders.persister`.
"""

from typing import Any

from shop import problem_members as member
from shop.refusal import RateLimited as RateLimited
from shop.refusal import ShopError as ShopError


class BadRequest(ShopError):
    status, code, title = 400, "bad_request", "The request cannot be read"


class IdempotencyKeyInvalid(BadRequest):
    code, title = "idempotency_key_invalid", "The Idempotency-Key must be 1 to 128 visible ASCII characters"


class IdempotencyKeyMissing(BadRequest):
    code, title = "idempotency_key_missing", "This request needs an Idempotency-Key"


class OriginRefused(BadRequest):
    code, title = "origin_refused", "Pages of this origin may not ask this"


class WebhookInvalid(BadRequest):
    code, title = "webhook_invalid", "The event is signed well, but it cannot be read"


class Unauthorized(ShopError):
    status, code, title = 401, "unauthorized", "A valid bearer token is needed"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class WrongCredentials(Unauthorized):
    code, title = "wrong_credentials", "The e-mail address or the password is wrong"


class WebhookUnsigned(Unauthorized):
    code, title = "webhook_signature", "The signature of the webhook is missing, stale or wrong"

    @property
    def headers(self) -> dict[str, str]:
        return {}


class Forbidden(ShopError):
    status, code, title = 403, "forbidden", "This account may not do that"


class UserBlocked(Forbidden):
    code, title = "user_blocked", "This account is blocked"


class WrongPassword(Forbidden):
    code, title = "wrong_password", "The current password is another one"


class SaleNotStarted(Forbidden):
    code, title = "sale_not_started", "The sale has not started yet"
    members = (member.STARTS_AT, member.WITNESS.sometimes())


class NotFound(ShopError):
    status, code, title = 404, "not_found", "There is no such thing here"


class ProductNotFound(NotFound):
    title = "There is no such product"
    members = (member.PRODUCT_ID.sometimes(),)


class SaleNotFound(NotFound):
    title = "There is no such sale"


class OrderNotFound(NotFound):
    title = "There is no such order"


class UserNotFound(NotFound):
    title = "There is no such user"


class WebhookNotFound(NotFound):
    title = "There is no such webhook"


class DeadLetterNotFound(NotFound):
    title = "There is no such dead letter"


class Conflict(ShopError):
    status, code, title = 409, "conflict", "The present state does not allow this"


class EmailTaken(Conflict):
    code, title = "email_taken", "An account with this e-mail address exists"


class LastAdmin(Conflict):
    code, title = "last_admin", "This is the last admin: make another one first"


class NotEnoughStock(Conflict):
    code, title = "not_enough_stock", "The product does not have that many units in stock"
    members = (member.PRODUCT_ID.sometimes(),)


class TooManyOpenOrders(Conflict):
    code, title = "too_many_open_orders", "Pay or cancel what you have ordered first"
    members = (member.OPEN_ORDERS, member.OPEN_UNITS)


class SaleStateConflict(Conflict):
    code, title = "sale_state", "The state of the sale does not allow this"


class ChangeRefused(Conflict):
    code, title = "change_refused", "The ledger refused the change"
    members = (member.REASON,)


class TooManyWebhooks(Conflict):
    code, title = "too_many_webhooks", "There are as many webhooks as there may be"


class WebhookDisabled(Conflict):
    code, title = "webhook_disabled", "The webhook is disabled"


class SoldOut(Conflict):
    code, title = "sold_out", "All units are taken"
    members = (member.WITNESS.sometimes(),)


class NotEnoughUnits(Conflict):
    code, title = "not_enough_units", "Fewer units are left than you asked for"
    members = (member.WITNESS.sometimes(),)


class OverLimit(Conflict):
    code, title = "over_limit", "This is more than one buyer may have in this sale"
    members = (member.UNITS_HELD.sometimes(), member.WITNESS.sometimes())


class OrderClosed(Conflict):
    code, title = "order_closed", "The order is closed"
    members = (member.ORDER_STATUS,)


class OrderPaid(Conflict):
    code, title = "order_paid", "The order is paid already"


class PaymentOver(Conflict):
    code, title = "payment_over", "The provider has ended the payment too often; cancel the order and buy again"


class OrderNotPaid(Conflict):
    code, title = "order_not_paid", "The order is not paid, so there is nothing to refund"
    members = (member.ORDER_STATUS.sometimes(),)


class SaleEnded(ShopError):
    status, code, title = 410, "sale_ended", "The sale is over"
    members = (member.ENDED_AT, member.WITNESS.sometimes())


class MethodNotAllowed(ShopError):
    status, code, title = 405, "method_not_allowed", "This path does not have this method"


class RequestTimeout(ShopError):
    status, code, title = 408, "request_timeout", "The request took too long to come; nothing was done"


class HeadTooLarge(ShopError):
    status, code, title = 431, "head_too_large", "The head of the request is too large"


class BodyTooLarge(ShopError):
    status, code, title = 413, "body_too_large", "The body is too large"


class UnsupportedMediaType(ShopError):
    status, code, title = 415, "unsupported_media_type", "The body must be application/json"


class Invalid(ShopError):
    """`errors` says each rule that is broken; without it the `detail` is the only one, at `pointer` in this `part`."""

    status, code, title = 422, "invalid", "The request breaks a rule"
    members: tuple[member.Member, ...] = (
        member.ERRORS,
        member.CAPTURED_MINOR.sometimes(),
        member.CURRENCY.sometimes(),
    )

    def __init__(self, detail: str | None = None, *, pointer: str = "", part: str = "body", **extra: Any) -> None:
        super().__init__(detail, **extra)
        if member.ERRORS in self.members:
            self.extra.setdefault("errors", [member.violation(part, pointer, "rule", detail or self.title)])


class IdempotencyMismatch(Invalid):
    code, title = "idempotency_mismatch", "This was asked before with a different body"
    members = (member.ORDER_ID.sometimes(),)


class StatementForged(Invalid):
    code, title = "statement_forged", "This is not a statement that the shop has signed"
    members = ()


class StatementOfAnotherSale(Invalid):
    code, title = "statement_of_another_sale", "The statement is of another sale"
    members = (member.SALE_ID,)


class WebhookUrlRefused(Invalid):
    code, title = "webhook_url_refused", "The shop does not send to this URL"
    members = ()


class Unavailable(ShopError):
    status, code, title = 503, "unavailable", "Not possible at the moment; nothing was done"
    retry_after = 1.0


class NotReady(Unavailable):
    code, title = "not_ready", "The shop is not ready for this; nothing was done"


class Overloaded(Unavailable):
    code, title = "overloaded", "The shop is busy; nothing was done"
    members = (member.WITNESS.sometimes(),)


class SalePaused(Unavailable):
    code, title = "sale_paused", "The sale is paused"
    members = (member.WITNESS.sometimes(),)
    retry_after = 3.0


class NotRecordedYet(Unavailable):
    code, title = "not_recorded_yet", "The order is accepted but not recorded yet"


class RefusalNotRecordedYet(NotRecordedYet):
    title = "The refusal is newer than what is recorded"


class ProviderUnavailable(Unavailable):
    code, title = "provider_unavailable", "The payment provider does not answer; ask again"
    retry_after = 2.0


class UnknownOutcome(ShopError):
    status, code, title = 504, "unknown_outcome", "The outcome is unknown; retry with the same key"
    retry_after = 1.0
