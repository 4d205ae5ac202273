"""An order's state at the server's door: to the byte what the route says, and never older than what is acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, update

from shop.app.factory import create_app
from shop.ledger.client import command
from shop.ledger.keys import ledger_keys
from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderStatus
from shop.payments.models import Payment
from shop.payments.repository import add_wanted
from shop.sales.models import Sale
from tests.api.answers import problem_of
from tests.api.orders import cancel, recording_held_up, until_released
from tests.harness import LOGINS, Shop, as_user, keyed, new_user_id, running_shop, wait_until
from tests.orders.catalogue import line, placed
from tests.orders.waiting.conftest import NEVER_SECONDS
from tests.payments.orders import event_of, intent_of, make_due, one_bought, order_of, pay, tell
from tests.processes import copy_of

SAME_HEADERS = ("content-type", "etag", "cache-control", "vary", "content-length")


@pytest.fixture
async def route(shop: Shop) -> AsyncIterator[httpx.AsyncClient]:
    """The application of the same shop without the server, and so without its door."""
    app = create_app(as_user(shop.settings, LOGINS.api_url))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://route") as client:
        yield client
    await app.fastapi.state["database"].close()
    await app.fastapi.state["ledger"].aclose(close_connection_pool=True)


@pytest.fixture
async def other(shop: Shop) -> AsyncIterator[Shop]:
    """Another process of the same shop, which has no news of orders that it could believe."""
    async with running_shop(copy_of(shop.settings, order_poll_seconds=NEVER_SECONDS), worker=False) as found:
        yield found


async def poll(shop: Shop, order_id: object, user_id: str, **headers: str) -> httpx.Response:
    sent = shop.headers(user_id) | {name.replace("_", "-"): value for name, value in headers.items()}
    return await (await shop.client()).get(f"/v1/orders/{order_id}", headers=sent)


async def refund(shop: Shop, order_id: UUID, *, restock: bool) -> None:
    client, headers = await shop.client(), keyed(shop.admin_headers())
    answer = await client.post(f"/v1/admin/orders/{order_id}/refund", headers=headers, json={"restock": restock})
    assert answer.status_code == 202, answer.text


async def with_payment(shop: Shop, order: Order, **values: object) -> Order:
    """The same order with a payment that has these values."""
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
        await session.execute(update(Payment).where(Payment.order_id == order.id).values(**values))
    return order


async def paid(shop: Shop, sale: Sale) -> Order:
    order = await with_payment(shop, await one_bought(shop, sale), tries=0)
    assert await pay(shop, order) == "applied"
    return order


async def replaced(shop: Shop, sale: Sale) -> list[Order]:
    """An order that has expired before its money came, and the one that this has bought instead."""
    order = await with_payment(shop, await one_bought(shop, sale), tries=0)
    await make_due(shop, [order.id])
    await expire_due(shop.database, shop.redis, shop.settings)
    await pay(shop, order)

    async def replacement() -> Order | None:
        async with shop.database.transaction() as session:
            query = select(Order).where(Order.replaces == order.id, Order.status == OrderStatus.PAID)
            return (await session.scalars(query)).one_or_none()

    return [order, await wait_until(replacement, reason="the order is replaced")]


async def every_state(shop: Shop) -> dict[str, Order]:
    """An order in each state that there is, with and without a payment, of a sale and of the catalogue."""
    sale = await shop.open_sale(units=30)
    orders = {"reserved": await one_bought(shop, sale)}
    pay_url = "https://provider.example/pay/ä?x=\"1\"&y='2'"
    orders["wanted"] = await with_payment(shop, await one_bought(shop, sale), tries=1)
    orders["wanted again"] = await with_payment(shop, await one_bought(shop, sale), attempt=2, version=3)
    orders["open"] = await with_payment(
        shop, await one_bought(shop, sale), status="open", pay_url=pay_url, declines=2, decline_code="näh", version=4
    )
    orders["over"] = await with_payment(shop, await one_bought(shop, sale), status="cancelled", pay_url=pay_url)
    orders["paid"] = await paid(shop, sale)
    for name, restock in (("refunded", True), ("refunded and kept", False)):
        orders[name] = await paid(shop, sale)
        await refund(shop, orders[name].id, restock=restock)
    await tell(shop, event_of(intent_of(orders["refunded"], captured=True, refunded=True), "payment.refunded"))
    orders["cancelled"] = await one_bought(shop, sale)
    await cancel(shop, str(orders["cancelled"].id), orders["cancelled"].user_id)
    await until_released(shop, str(orders["cancelled"].id), orders["cancelled"].user_id)
    orders["expired"], orders["replacement"] = await replaced(shop, sale)
    products, user = [await shop.make_product() for _ in range(3)], new_user_id()
    for name in ("ordinary", "ordinary and cancelled"):
        made = await placed(shop, user, *(line(product, 2) for product in reversed(products)))
        orders[name] = await order_of(shop, UUID(made["id"]))
    await cancel(shop, made["id"], user)
    return orders


async def test_every_state_is_what_the_route_says_to_the_byte(shop: Shop, route: httpx.AsyncClient) -> None:
    """Read, from memory, and as 304."""
    orders = await every_state(shop)

    for name, order in orders.items():
        headers = shop.headers(order.user_id)
        of_route = await route.get(f"/v1/orders/{order.id}", headers=headers)
        read, remembered = [await poll(shop, order.id, order.user_id) for _ in range(2)]
        unchanged = await poll(shop, order.id, order.user_id, If_None_Match=of_route.headers["etag"])

        assert of_route.status_code == 200, (name, of_route.text)
        assert (read.content, remembered.content) == (of_route.content, of_route.content), name
        for answer in (read, remembered):
            assert [answer.headers[each] for each in SAME_HEADERS] == [of_route.headers[each] for each in SAME_HEADERS]
        assert (unchanged.status_code, unchanged.content) == (304, b""), name
        assert unchanged.headers["etag"] == of_route.headers["etag"]
    statuses = {(await order_of(shop, order.id)).status for order in orders.values()}
    assert statuses == set(OrderStatus)


async def test_an_order_on_its_way_is_what_the_route_says(shop: Shop, route: httpx.AsyncClient) -> None:
    sale, user = await shop.open_sale(units=5, units_per_user=3), new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user, quantity=3)
        here, there = (
            await poll(shop, order_id, user),
            await route.get(f"/v1/orders/{order_id}", headers=shop.headers(user)),
        )
        for tags in ("*", here.headers["etag"]):
            problem_of(await poll(shop, order_id, new_user_id(), If_None_Match=tags), 404, "not_found")

    assert (here.content, here.headers["etag"]) == (there.content, there.headers["etag"])
    assert (here.json()["recorded"], here.json()["quantity"]) == (False, 3)


async def test_an_order_is_found_in_the_epoch_of_its_sale_alone(shop: Shop) -> None:
    """What the ledger of another epoch has is none of its orders."""
    sale, user = await shop.open_sale(units=5), new_user_id()
    async with recording_held_up(shop, sale):
        order_id, row = await shop.bought(sale, user), await shop.row(sale)
        entry = await command(shop.redis, "HGET", ledger_keys(sale.id, row.epoch).orders, UUID(order_id).bytes)
        later = ledger_keys(sale.id, row.epoch + 1).orders
        made_up = UUID(int=UUID(order_id).int ^ 1)
        await command(shop.redis, "HSET", later, made_up.bytes, entry)
        try:
            assert (await poll(shop, order_id, user)).status_code == 200
            problem_of(await poll(shop, made_up, user), 404, "not_found")
        finally:
            await shop.redis.delete(later)


async def test_of_many_who_ask_at_once_each_is_told_its_own(shop: Shop) -> None:
    """Of orders with rows and without, of others, and of what nobody has."""
    sale = await shop.open_sale(units=60)
    users = [new_user_id() for _ in range(25)]
    recorded = [await shop.bought(sale, user) for user in users[:20]]
    await shop.drained(sale)
    async with recording_held_up(shop, sale):
        order_ids = recorded + [await shop.bought(sale, user) for user in users[20:]]
        asked = [(order_id, user) for order_id, user in zip(order_ids, users, strict=True)] * 3
        strangers = [(order_id, users[0]) for order_id in (*order_ids[1:], uuid4(), UUID(int=1), UUID(int=2**127))]
        answers = await asyncio.gather(*(poll(shop, *each) for each in (*asked, *strangers)))

    told = [answer.json() for answer in answers[: len(asked)]]
    assert [(each["id"], each["recorded"]) for each in told] == [
        (order_id, order_id in recorded) for order_id, _ in asked
    ]
    for answer in answers[len(asked) :]:
        problem_of(answer, 404, "not_found")


async def test_what_one_process_acknowledged_another_never_tells_the_state_before(shop: Shop, other: Shop) -> None:
    """Though it has that state in memory, and no news: paid, refunded, cancelled."""
    sale = await shop.open_sale(units=10)
    orders = [await with_payment(shop, await one_bought(shop, sale), tries=0) for _ in range(5)]

    async def seen(order: Order) -> tuple[str, str]:
        """The status that is told to who knows nothing, and to who knows what was told before."""
        first = await poll(other, order.id, order.user_id)
        known.setdefault(order.id, first.headers["etag"])
        again = await poll(other, order.id, order.user_id, If_None_Match=known[order.id])
        return first.json()["status"], again.json()["status"] if again.status_code == 200 else "as known"

    known: dict[UUID, str] = {}
    for order in orders:
        assert [await seen(order), await seen(order)] == [("reserved", "as known")] * 2
        assert await pay(shop, order) == "applied"
        assert await seen(order) == ("paid", "paid")
        await refund(shop, order.id, restock=False)
        assert await seen(order) == ("refunded", "refunded")
    last = await one_bought(shop, sale)
    assert (await seen(last))[0] == "reserved"
    assert (await cancel(shop, str(last.id), last.user_id)).status_code == 200
    assert await seen(last) == ("cancelled", "cancelled")


async def test_a_state_is_compared_with_the_tags_that_are_sent_as_rfc_9110_says(shop: Shop) -> None:
    """A thousand of them, weak and strong, in one field or several, `*`, and none."""
    sale = await shop.open_sale(units=5)
    order = await one_bought(shop, sale)
    many = ", ".join(f'W/"{number}"' for number in range(10, 1_010))

    found = {
        tags: (await poll(shop, order.id, order.user_id, If_None_Match=tags)).status_code
        for tags in ('W/"2"', '"2"', f'{many}, "2"', "*", many, "", "2", 'W/"2', '"*"', ",,;=")
    }
    headers = [*shop.headers(order.user_id).items(), ("If-None-Match", '"7"'), ("If-None-Match", 'W/"2"')]
    several = await (await shop.client()).get(f"/v1/orders/{order.id}", headers=headers)

    assert [tags for tags, status in found.items() if status == 304] == ['W/"2"', '"2"', f'{many}, "2"', "*"]
    assert set(found.values()) == {200, 304}
    assert several.status_code == 304


async def test_polls_are_counted_as_requests_of_their_route(shop: Shop) -> None:
    def counted(status: int) -> float:
        labels = {"method": "GET", "route": "/v1/orders/{order_id}", "status": str(status)}
        return REGISTRY.get_sample_value("shop_http_requests_total", labels) or 0.0

    order = await one_bought(shop, await shop.open_sale(units=5))
    before = {status: counted(status) for status in (200, 304, 404)}
    for user, tag in ((order.user_id, ""), (order.user_id, "*"), (new_user_id(), "")):
        await poll(shop, order.id, user, If_None_Match=tag)

    async def all_counted() -> bool:
        return all(counted(status) >= count + 1 for status, count in before.items())

    await wait_until(all_counted, reason="the polls are counted")


async def test_head_and_a_request_id_and_odd_requests_are_answered_as_everywhere(shop: Shop) -> None:
    sale = await shop.open_sale(units=5)
    order = await one_bought(shop, sale)
    client, headers = await shop.client(), shop.headers(order.user_id)
    path = f"/v1/orders/{order.id}"

    plain = await poll(shop, order.id, order.user_id, X_Request_Id="mine")
    head = await client.head(path, headers=headers)
    large = await client.get(path.upper().replace("/V1/ORDERS", "/v1/orders"), headers=headers)

    assert plain.headers["x-request-id"] == "mine"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(plain.content))
    assert (large.status_code, large.content) == (200, plain.content)
    problem_of(await client.get(path), 401, "unauthorized")
    problem_of(await client.get(path, headers={"Authorization": "Bearer x"}), 401, "unauthorized")
    problem_of(await client.get(path.replace("-", ""), headers=headers), 404, "not_found")
    problem_of(await client.get("/v1/orders/x", headers=headers), 422, "invalid")
    problem_of(await client.get(path, headers={**headers, "Receipt": "forged"}), 422, "invalid")
