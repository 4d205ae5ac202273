"""The sandbox as an HTTP application: the API of a provider, its payment page, and the levers of its faults."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Form, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from shop.app_keys import AppKey
from shop.sandbox.behaviour import Behaviour
from shop.sandbox.page import missing_page, payment_page
from shop.sandbox.provider import Provider
from shop.sandbox.refusal import Refused, problem_response
from shop.sandbox.trouble import Trouble
from shop.sandbox.webhooks import Webhooks
from shop.stopping import Backoff, cancel_and_wait, supervise

AMOUNT_MINOR_MAX = 10**12
EVENTS_MAX = 500
SEQ_MAX = 2**62
RESTART_SECONDS = 1.0

PROVIDER = AppKey[Provider]("provider")
API_KEY = AppKey[SecretStr]("api_key")


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class IntentWish(_Wish):
    """A payment that a shop wants."""

    order_id: str = Field(min_length=1, max_length=128)
    amount_minor: int = Field(ge=0, le=AMOUNT_MINOR_MAX)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    return_url: str | None = Field(None, max_length=2_000, pattern=r"^https?://[A-Za-z0-9._:\[\]-]+([/?][!-~]*)?$")


class AttemptWish(_Wish):
    """What a shopper does at the payment page."""

    outcome: Literal["pay", "decline"]


class RefundWish(_Wish):
    """Money that a shop gives back."""

    amount_minor: int = Field(ge=1, le=AMOUNT_MINOR_MAX)


class WebhookTarget(_Wish):
    """Where webhooks go; without a URL they are off."""

    url: str | None = Field(max_length=2_000, pattern=r"^https?://[^\s]+$")


async def _idempotency_key(idempotency_key: Annotated[str | None, Header(max_length=255)] = None) -> str:
    if not idempotency_key:
        raise Refused(400, "idempotency_key_missing", "This request needs an Idempotency-Key")
    return idempotency_key


async def _authorized(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    expected = f"Bearer {API_KEY.of(request).get_secret_value()}"
    if not hmac.compare_digest(authorization.encode(), expected.encode()):
        raise Refused(401, "unauthorized", "The API key is missing or wrong")


async def _provider(request: Request) -> Provider:
    return PROVIDER.of(request)


ProviderDep = Annotated[Provider, Depends(_provider)]
Key = Annotated[str, Depends(_idempotency_key)]
api = APIRouter(prefix="/v1", dependencies=[Depends(_authorized)])
public = APIRouter()


def create_app(provider: Provider, *, api_key: SecretStr, webhook_secret: str) -> ASGIApp:
    """The application; webhooks are sent while it is served."""
    webhooks = Webhooks(provider, secret=webhook_secret)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        sending = asyncio.create_task(
            supervise("webhooks", webhooks.run, stopping, Backoff(RESTART_SECONDS, RESTART_SECONDS))
        )
        try:
            yield
        finally:
            stopping.set()
            await cancel_and_wait({sending})

    # Its pages of documentation would need a public CDN.
    app = FastAPI(
        title="A payment provider's sandbox", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    PROVIDER.put(app, provider)
    API_KEY.put(app, api_key)
    app.include_router(api)
    app.include_router(public)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    return Trouble(app, provider)


@api.post("/intents")
async def create_intent(wish: IntentWish, key: Key, provider: ProviderDep) -> Response:
    """Make an intent: 201, or 200 with the one that this key made before."""
    intent, new = provider.create(
        key=key,
        order_id=wish.order_id,
        amount_minor=wish.amount_minor,
        currency=wish.currency,
        return_url=wish.return_url,
    )
    return _json(intent, 201 if new else 200)


@api.get("/intents/{intent_id}")
async def read_intent(intent_id: str, provider: ProviderDep) -> Response:
    """The intent as it is now."""
    return _json(provider.read(intent_id))


@api.post("/intents/{intent_id}/cancel")
async def cancel_intent(intent_id: str, provider: ProviderDep) -> Response:
    """See that it is never paid."""
    return _json(provider.cancel(intent_id))


@public.post("/v1/intents/{intent_id}/attempts")
async def attempt_payment(intent_id: str, wish: AttemptWish, provider: ProviderDep) -> Response:
    """What the buttons of the payment page do, for a crowd without browsers: to know the id is enough."""
    return _json(provider.attempt(intent_id, pays=wish.outcome == "pay"))


@api.post("/intents/{intent_id}/refunds")
async def create_refund(intent_id: str, wish: RefundWish, key: Key, provider: ProviderDep) -> Response:
    """Give money back: 201, or 200 with the refund that this key made before."""
    refund, new = provider.refund(intent_id, key=key, amount_minor=wish.amount_minor)
    return _json(refund, 201 if new else 200)


@api.get("/events")
async def list_events(
    provider: ProviderDep,
    after: Annotated[int, Query(ge=0, le=SEQ_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = 100,
) -> Response:
    """What happened, in order and without a gap."""
    events, more = provider.events(after=after, limit=limit)
    return _json({"data": events, "has_more": more})


@public.get("/pay/{intent_id}")
async def show_page(intent_id: str, provider: ProviderDep) -> Response:
    """The payment page."""
    try:
        return payment_page(provider.read(intent_id), provider.books.return_url(intent_id))
    except Refused:
        return missing_page()


@public.post("/pay/{intent_id}")
async def press_button(
    intent_id: str, outcome: Annotated[Literal["pay", "decline"], Form()], provider: ProviderDep
) -> Response:
    """A button of the payment page, which then sends the shopper back to the shop, or shows what came of it."""
    try:
        provider.attempt(intent_id, pays=outcome == "pay")
    except Refused as refused:
        if refused.status == 404:
            return missing_page()
        if refused.code == "intent_cancelled":
            return RedirectResponse(f"/pay/{intent_id}", 303)
    return RedirectResponse(provider.books.return_url(intent_id) or f"/pay/{intent_id}", 303)


@public.get("/sandbox/behaviour")
async def read_behaviour(provider: ProviderDep) -> Behaviour:
    """The faults that it has."""
    return provider.behaviour


@public.put("/sandbox/behaviour")
async def change_behaviour(behaviour: Behaviour, provider: ProviderDep) -> Behaviour:
    """Have these faults from now on, and no others; what is left out is off."""
    provider.behave(behaviour)
    return behaviour


@public.put("/sandbox/webhook")
async def change_webhook(target: WebhookTarget, provider: ProviderDep) -> WebhookTarget:
    """Send webhooks there from now on."""
    provider.webhook_url = target.url
    return target


@public.get("/sandbox/summary")
async def read_summary(provider: ProviderDep) -> Mapping[str, Any]:
    """Counts and sums, to balance the money with."""
    return provider.books.summary()


@public.get("/livez")
async def live() -> Mapping[str, str]:
    """Whether it runs."""
    return {"status": "ok"}


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 - what the handler is registered for
    return problem_response(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = [{"pointer": "/".join(map(str, each["loc"])), "detail": each["msg"]} for each in error.errors()]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return problem_response(Refused(400, "bad_request", "The body is not JSON"))
    return problem_response(Refused(422, "invalid", "The request breaks a rule", errors=found))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem_response(Refused(error.status_code, code, str(error.detail)))
