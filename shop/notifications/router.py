"""Webhooks and dead letters over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from shop.app_keys import SETTINGS
from shop.auth import ActorDep, CurrentAdmin
from shop.bounds import ROW_ID_MAX, Digits, Limit, WrittenId
from shop.errors import (
    DeadLetterNotFound,
    TooManyWebhooks,
    WebhookDisabled,
    WebhookNotFound,
    WebhookUrlRefused,
)
from shop.json_bodies import JsonRoute
from shop.notifications import repository, service
from shop.notifications.schemas import (
    ID_MAX,
    DeadLetterPage,
    DeliveryRead,
    WebhookCreate,
    WebhookPage,
    WebhookPatch,
    WebhookRead,
    WebhookWithSecret,
)
from shop.paging import next_link
from shop.problem_json import REFUSED_BODIES, REFUSED_TO_OTHERS, problems
from shop.request_session import DATABASE, SessionDep


class _NotDead(StringConvertor):
    """What may be a webhook's id: `/dead` beside it has methods of its own, and no others."""

    regex = "(?!dead(?:/|$))[^/]+"


register_url_convertor("webhook", _NotDead())

WebhookId = Annotated[int, Digits(1, ID_MAX, WebhookNotFound), Path()]
DeliveryId = Annotated[int, Digits(1, ROW_ID_MAX, DeadLetterNotFound), Path()]
WrittenWebhookId = Annotated[int, Digits(1, ID_MAX)]
AfterWebhook = Annotated[WrittenWebhookId | None, Query(description="The last id of the page before.")]
AfterDelivery = Annotated[WrittenId | None, Query(description="The last id of the page before.")]
OfWebhook = Annotated[WrittenWebhookId | None, Query(description="Only those of this webhook.")]

WEBHOOKS = "/v1/admin/webhooks"

router = APIRouter(prefix=WEBHOOKS, tags=["admin"], route_class=JsonRoute)


@router.post(
    "",
    status_code=201,
    responses=problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES, WebhookUrlRefused, TooManyWebhooks),
)
async def create_webhook(
    new: WebhookCreate, request: Request, actor: ActorDep, response: Response
) -> WebhookWithSecret:
    """Tell a URL of what happens to orders from now on. The secret that signs is in this answer and in no other."""
    webhook = await service.create(DATABASE.of(request), actor, new, SETTINGS.of(request))
    response.headers["Location"] = f"{WEBHOOKS}/{webhook.id}"
    response.headers["Cache-Control"] = "no-store"
    return WebhookWithSecret.model_validate(webhook)


@router.get("", responses=problems(*REFUSED_TO_OTHERS))
async def list_webhooks(
    admin: CurrentAdmin,
    response: Response,
    session: SessionDep,
    limit: Limit = 20,
    starting_after: AfterWebhook = None,
) -> WebhookPage:
    """Every webhook, newest first."""
    webhooks, has_more = await repository.webhook_page(session, limit=limit, starting_after=starting_after)
    if has_more:
        response.headers.update(next_link(WEBHOOKS, f"limit={limit}&starting_after={webhooks[-1].id}"))
    return WebhookPage(data=[WebhookRead.model_validate(each) for each in webhooks], has_more=has_more)


@router.get("/dead", responses=problems(*REFUSED_TO_OTHERS))
async def list_dead_letters(
    admin: CurrentAdmin,
    response: Response,
    session: SessionDep,
    limit: Limit = 20,
    starting_after: AfterDelivery = None,
    webhook_id: OfWebhook = None,
) -> DeadLetterPage:
    """What could not be delivered, newest first: notifications of webhooks, and mails that were refused."""
    letters, has_more = await repository.dead_page(
        session, limit=limit, starting_after=starting_after, webhook_id=webhook_id
    )
    if has_more:
        only = f"&webhook_id={webhook_id}" if webhook_id is not None else ""
        query = f"limit={limit}&starting_after={letters[-1].delivery.id}{only}"
        response.headers.update(next_link(f"{WEBHOOKS}/dead", query))
    return DeadLetterPage(data=[service.letter_read(each) for each in letters], has_more=has_more)


@router.post("/dead/{delivery_id}/retry", responses=problems(*REFUSED_TO_OTHERS, DeadLetterNotFound, WebhookDisabled))
async def retry_dead_letter(
    delivery_id: DeliveryId, request: Request, actor: ActorDep, session: SessionDep
) -> DeliveryRead:
    """Try a dead letter anew, at once and then for a day. Asking twice is the same as once."""
    return await service.retry(session, actor, delivery_id, SETTINGS.of(request))


@router.get("/{webhook_id:webhook}", responses=problems(*REFUSED_TO_OTHERS, WebhookNotFound))
async def read_webhook(webhook_id: WebhookId, admin: CurrentAdmin, session: SessionDep) -> WebhookRead:
    """One webhook."""
    return WebhookRead.model_validate(await service.find(session, webhook_id))


@router.patch(
    "/{webhook_id:webhook}", responses=problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES, WebhookNotFound, WebhookUrlRefused)
)
async def change_webhook(webhook_id: WebhookId, patch: WebhookPatch, request: Request, actor: ActorDep) -> WebhookRead:
    """Change the fields that are sent. Enabling it again also forgets that it failed."""
    changed = await service.change(DATABASE.of(request), actor, webhook_id, patch, SETTINGS.of(request))
    return WebhookRead.model_validate(changed)


@router.delete("/{webhook_id:webhook}", status_code=204, responses=problems(*REFUSED_TO_OTHERS, WebhookNotFound))
async def delete_webhook(webhook_id: WebhookId, actor: ActorDep, session: SessionDep) -> None:
    """Tell it nothing any more; what is pending for it is given up."""
    await service.delete(session, actor, webhook_id)


@router.post("/{webhook_id:webhook}/secret", responses=problems(*REFUSED_TO_OTHERS, WebhookNotFound))
async def rotate_webhook_secret(
    webhook_id: WebhookId, actor: ActorDep, response: Response, session: SessionDep
) -> WebhookWithSecret:
    """Give it a new secret, which is in this answer and in no other. The old one signs beside it for a day."""
    webhook = await service.rotate_secret(session, actor, webhook_id)
    response.headers["Cache-Control"] = "no-store"
    return WebhookWithSecret.model_validate(webhook)
