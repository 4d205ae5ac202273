"""Admins make, change, rotate and delete webhooks, and look after dead letters."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update

from shop.admin_events import AdminEvent
from shop.database import Database
from shop.embedded import EmbeddedServers
from shop.notifications.kinds import ORDER_KINDS
from shop.notifications.models import Delivery, Notification, Webhook
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import Shop, create_database, running_shop
from tests.notifications.outbox import deliver, make_webhook
from tests.notifications.receivers import merchant
from tests.processes import copy_of

WEBHOOKS_MAX = 3
PATH = "/v1/admin/webhooks"
PUBLIC_URL = "https://1.1.1.1/hooks"


@pytest.fixture(scope="module")
async def api(servers: EmbeddedServers, template_database: str, live_settings: Settings) -> AsyncIterator[Shop]:
    """An API without a worker: nothing is really sent to what the tests name."""
    url = create_database(servers.database_url, "webhooks", template=template_database)
    settings = copy_of(live_settings, database_url=url, webhooks_max=WEBHOOKS_MAX)
    async with running_shop(settings, worker=False) as shop:
        yield shop


@pytest.fixture(autouse=True)
async def _nothing_yet(api: Shop) -> None:
    async with api.database.transaction() as session:
        await session.execute(text("TRUNCATE webhooks, notifications, deliveries, admin_events CASCADE"))


async def call(api: Shop, method: str, path: str = "", body: Any = None, **query: Any) -> httpx.Response:
    client = await api.client()
    return await client.request(method, PATH + path, headers=api.admin_headers(), json=body, params=query)


async def made(api: Shop, **fields: Any) -> dict[str, Any]:
    answer = await call(api, "POST", body={"url": PUBLIC_URL, **fields})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def dead_letters(database: Database, webhook: Webhook, count: int) -> list[int]:
    """So many dead letters of this webhook; their ids, the newest first."""
    async with database.transaction() as session:
        for _ in range(count):
            notification = Notification(
                id=func.gen_random_uuid(), kind="order.paid", user_id="ada", payload={"type": "order.paid", "data": {}}
            )
            session.add(notification)
            await session.flush()
            session.add(
                Delivery(
                    notification_id=notification.id,
                    sink="webhook",
                    webhook_id=webhook.id,
                    give_up_at=func.now(),
                    dead_at=func.now(),
                    last_error="answered 500",
                    tries=11,
                )
            )
        await session.flush()
        return list(await session.scalars(select(Delivery.id).order_by(Delivery.id.desc())))


async def actions(database: Database) -> list[str]:
    async with database.transaction() as session:
        return list(await session.scalars(select(AdminEvent.action).order_by(AdminEvent.id)))


async def test_the_secret_is_shown_once(api: Shop) -> None:
    webhook = await made(api, description="The ERP")

    assert webhook["secret"].startswith("whsec_")
    assert (webhook["enabled"], webhook["events"]) == (True, [kind.value for kind in ORDER_KINDS])
    read = await call(api, "GET", f"/{webhook['id']}")
    listed = await call(api, "GET")
    for document in (read.json(), listed.json()["data"][0]):
        assert document == {name: value for name, value in webhook.items() if "secret" not in name}


@pytest.mark.parametrize("url", ["http://1.1.1.1/", "https://127.0.0.1/", "https://[::1]/", "https://a@1.1.1.1/"])
async def test_a_url_that_the_shop_does_not_send_to_is_refused(api: Shop, url: str) -> None:
    problem_of(await call(api, "POST", body={"url": url}), 422, "webhook_url_refused")
    webhook = await made(api)
    problem_of(await call(api, "PATCH", f"/{webhook['id']}", {"url": url}), 422, "webhook_url_refused")

    assert (await call(api, "GET", f"/{webhook['id']}")).json()["url"] == PUBLIC_URL


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": PUBLIC_URL, "events": []},
        {"url": PUBLIC_URL, "events": ["user.welcome"]},
        {"url": PUBLIC_URL, "events": ["order.lost"]},
        {"url": PUBLIC_URL, "description": "\x00"},
        {"url": PUBLIC_URL, "secret": "whsec_mine"},
    ],
)
async def test_a_webhook_that_breaks_a_rule_is_refused(api: Shop, body: dict[str, Any]) -> None:
    problem_of(await call(api, "POST", body=body), 422, "invalid")


async def test_there_are_no_more_webhooks_than_the_setting_says(api: Shop) -> None:
    webhooks = [await made(api) for _ in range(WEBHOOKS_MAX)]
    problem_of(await call(api, "POST", body={"url": PUBLIC_URL}), 409, "too_many_webhooks")

    assert (await call(api, "DELETE", f"/{webhooks[0]['id']}")).status_code == 204
    await made(api)


async def test_a_change_changes_what_it_names_and_nothing_else(api: Shop) -> None:
    webhook = await made(api)
    changed = await call(api, "PATCH", f"/{webhook['id']}", {"events": ["order.refunded", "order.paid", "order.paid"]})

    expected = {name: value for name, value in webhook.items() if "secret" not in name}
    assert changed.json() == expected | {"events": ["order.paid", "order.refunded"]}


async def test_a_webhook_is_disabled_and_enabled_again(api: Shop) -> None:
    webhook = await made(api)
    disabled = (await call(api, "PATCH", f"/{webhook['id']}", {"enabled": False})).json()
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "admin")

    async with api.database.transaction() as session:
        await session.execute(update(Webhook).values(disabled_reason="failing", failing_since=func.now()))
    enabled = (await call(api, "PATCH", f"/{webhook['id']}", {"enabled": True})).json()
    assert (enabled["enabled"], enabled["disabled_reason"], enabled["failing_since"]) == (True, None, None)


async def test_a_deleted_webhook_is_not_there_any_more(api: Shop) -> None:
    webhook = await made(api)
    assert (await call(api, "DELETE", f"/{webhook['id']}")).status_code == 204

    for method, path, body in (("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/secret", None)):
        problem_of(await call(api, method, f"/{webhook['id']}{path}", body), 404, "not_found")
    assert (await call(api, "GET")).json() == {"object": "list", "data": [], "has_more": False}


async def test_a_rotation_gives_a_new_secret_and_tells_how_long_the_old_one_signs(api: Shop) -> None:
    webhook = await made(api)
    answer = await call(api, "POST", f"/{webhook['id']}/secret")

    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["secret"] != webhook["secret"]
    assert answer.json()["previous_secret_until"] is not None
    async with api.database.transaction() as session:
        row = (await session.scalars(select(Webhook))).one()
    assert (row.secret, row.previous_secret) == (answer.json()["secret"], webhook["secret"])


async def test_what_admins_do_is_recorded_without_the_secrets(api: Shop) -> None:
    webhook = await made(api)
    await call(api, "PATCH", f"/{webhook['id']}", {"enabled": False})
    await call(api, "POST", f"/{webhook['id']}/secret")
    await call(api, "DELETE", f"/{webhook['id']}")

    assert await actions(api.database) == [
        "webhook.created",
        "webhook.changed",
        "webhook.secret_rotated",
        "webhook.deleted",
    ]
    async with api.database.transaction() as session:
        assert "whsec" not in str(list(await session.scalars(select(AdminEvent.details))))


async def test_shoppers_may_do_none_of_it(api: Shop) -> None:
    client = await api.client()
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/dead"), ("POST", "/dead/1/retry"), ("DELETE", "/1")):
        answer = await client.request(method, PATH + path, headers=api.headers(), json={"url": PUBLIC_URL})
        problem_of(answer, 403, "forbidden")


async def test_dead_letters_are_listed_in_pages_newest_first(api: Shop) -> None:
    webhook = await make_webhook(api.database, PUBLIC_URL)
    letters = await dead_letters(api.database, webhook, 3)

    first = await call(api, "GET", "/dead", limit=2, webhook_id=webhook.id)
    assert [each["id"] for each in first.json()["data"]] == letters[:2]
    assert first.json()["has_more"]
    [letter, _] = first.json()["data"]
    assert (letter["event"], letter["last_error"], letter["tries"]) == ("order.paid", "answered 500", 11)
    assert letter["url"] == PUBLIC_URL

    client = await api.client()
    following = await client.get(first.links["next"]["url"], headers=api.admin_headers())
    assert [each["id"] for each in following.json()["data"]] == letters[2:]
    assert "link" not in following.headers


async def test_webhooks_are_listed_in_pages_newest_first(api: Shop) -> None:
    webhooks = [(await made(api))["id"] for _ in range(3)]

    first = await call(api, "GET", limit=2)
    assert [each["id"] for each in first.json()["data"]] == webhooks[:0:-1]
    following = await (await api.client()).get(first.links["next"]["url"], headers=api.admin_headers())
    assert ([each["id"] for each in following.json()["data"]], following.json()["has_more"]) == (webhooks[:1], False)


@pytest.mark.parametrize(("path", "largest"), [("", 2**31 - 1), ("/dead", 2**63 - 1)])
async def test_a_cursor_that_no_id_can_be_is_refused(api: Shop, path: str, largest: int) -> None:
    assert (await call(api, "GET", path, starting_after=largest)).status_code == 200
    problem_of(await call(api, "GET", path, starting_after=largest + 1), 422, "invalid")


async def test_a_dead_letter_that_is_retried_arrives_under_its_old_id(api: Shop) -> None:
    settings = copy_of(api.settings, webhook_private_addresses_allowed=True)
    async with merchant() as receiver:
        webhook = await make_webhook(api.database, receiver.url())
        [letter] = await dead_letters(api.database, webhook, 1)
        answer = await call(api, "POST", f"/dead/{letter}/retry")
        assert (answer.status_code, answer.json()["dead_at"], answer.json()["tries"]) == (200, None, 0)
        await deliver(api.database, settings)

    [request] = receiver.requests
    assert request.id == answer.json()["notification_id"]
    again = await call(api, "POST", f"/dead/{letter}/retry")
    assert again.json()["delivered_at"] is not None
    assert await actions(api.database) == ["delivery.retried"]
    assert (await call(api, "GET", "/dead")).json() == {"object": "list", "data": [], "has_more": False}


async def test_a_dead_letter_of_a_disabled_webhook_is_not_retried(api: Shop) -> None:
    webhook = await make_webhook(api.database, PUBLIC_URL, disabled_at=func.now(), disabled_reason="gone")
    [letter] = await dead_letters(api.database, webhook, 1)

    problem_of(await call(api, "POST", f"/dead/{letter}/retry"), 409, "webhook_disabled")
    problem_of(await call(api, "POST", "/dead/999999/retry"), 404, "not_found")
