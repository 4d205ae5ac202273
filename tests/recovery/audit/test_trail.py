"""Everything that happened to one order, from the ledger and from every row that tells of it."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis.asyncio as aioredis
from sqlalchemy import insert

from shop.admin_events import record_admin_event
from shop.database import Database
from shop.errors import NotReady
from shop.ledger.client import RedisClock, ReserveRequest, reserve
from shop.ledger.events import parse_event
from shop.ledger.order_ids import ids_of_sale, numbered_order_id
from shop.ledger.stream import events_from
from shop.notifications.collecting.happenings import notification_id
from shop.notifications.kinds import Kind, Sink
from shop.notifications.models import Delivery, Notification
from shop.orders.batch import write_batch
from shop.orders.expiry import expire_due
from shop.orders.models import OrderEvent, OrderStatus
from shop.payments.matching import match_payments
from shop.payments.repository import add_wanted
from shop.redis import connect
from shop.sales import repository as sales
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import ClaimOutcome
from shop.sales.incidents.repository import Promise
from shop.sales.loading import load, loaded_sale
from shop.settings import Settings
from shop.support.trail.repository import ROWS_MAX
from shop.support.trail.schemas import OrderTrail, Source
from shop.support.trail.service import trail
from tests.api.answers import problem_of
from tests.harness import TESTER, Shop, keyed, new_user_id, wait_until
from tests.lua.ledgers import NOBODY
from tests.notifications.outbox import make_order, make_sale, make_webhook, move_order
from tests.payments.orders import make_due, one_bought, pay


async def ask(shop: Shop, order_id: object) -> httpx.Response:
    """Ask for the trail of this order as an admin."""
    client = await shop.client()
    return await client.get(f"/v1/admin/orders/{order_id}/trail", headers=shop.admin_headers())


async def until(shop: Shop, order_id: object, source: str, event: str) -> dict[str, Any]:
    """The trail, once this has happened."""

    async def found() -> dict[str, Any] | None:
        answer = await ask(shop, order_id)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document if (source, event) in happened(document) else None

    document: dict[str, Any] = await wait_until(found, reason=f"{source} {event}")
    return document


def happened(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What happened, without what somebody was told of it."""
    found = [(entry["source"], entry["event"]) for entry in document["entries"]]
    return [each for each in found if each[0] != Source.NOTIFICATION]


def facts(document: OrderTrail, source: Source) -> list[tuple[str, dict[str, Any]]]:
    """What one source tells."""
    return [(entry.event, entry.facts) for entry in document.entries if entry.source == source]


async def test_the_trail_of_an_order_is_told_in_order_of_time(shop: Shop) -> None:
    """From the reservation to the refund and the units that came back; each thing once."""
    sale, buyer = await shop.open_sale(units=2), new_user_id()
    order = await one_bought(shop, sale, buyer)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    assert await pay(shop, order) == "applied"
    client = await shop.client()
    wish = {"restock": True, "reason": "broken [on] arrival"}
    refunded = await client.post(f"/v1/admin/orders/{order.id}/refund", headers=keyed(shop.admin_headers()), json=wish)
    assert refunded.status_code == 202

    document = await until(shop, order.id, "order", "released")

    assert sorted(happened(document)) == sorted(
        [
            ("ledger", "reserved"),
            ("order", "recorded"),
            ("payment", "wanted"),
            ("provider", "payment.captured"),
            ("payment", "captured"),
            ("order", "paid"),
            ("payment", "settled"),
            ("admin", "refund"),
            ("refund", "wanted"),
            ("order", "refunded"),
            ("ledger", "released"),
            ("order", "released"),
        ]
    )
    times = [entry["at"] for entry in document["entries"]]
    assert times == sorted(times)
    assert (document["order_id"], document["sale_id"], document["more"]) == (str(order.id), sale.id, [])
    assert (document["row"]["status"], document["row"]["user_id"]) == ("refunded", buyer)
    ledger = [entry["facts"] for entry in document["entries"] if entry["source"] == "ledger"]
    assert [(each["seq"], each["delta"], each["balance"], each["recorded"]) for each in ledger] == [
        (1, -1, 1, True),
        (2, 1, 2, True),
    ]


async def test_an_order_that_is_not_recorded_yet_is_told_from_the_ledger(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Its event is still in the stream; once that is recorded it is told from there, and nothing is told twice."""
    sale = await make_sale(database)
    await load(database, redis, sale, settings)
    order_id = numbered_order_id(sale.id, sale.salt, "buyer", 1)
    wish = ReserveRequest(order_id, "buyer", 1)
    [answer] = await reserve(redis, loaded_sale(sale), [wish], clock=RedisClock(), last=NOBODY, timeout=2.0)
    assert answer.word == "RESERVED"

    found = await trail(database, redis, UUID(bytes=order_id))

    assert (found.row, found.ledger_asked) == (None, True)
    assert found.ledger is not None
    assert (found.ledger.seq, found.ledger.quantity, found.ledger.status) == (1, 1, "held")
    reserved = {"epoch": 1, "seq": 1, "quantity": 1, "delta": -1, "balance": 99}
    assert facts(found, Source.LEDGER) == [("reserved", {**reserved, "recorded": False})]
    assert [entry.at for entry in found.entries] == [found.ledger.reserved_at]

    async with database.transaction() as session:
        locked = await sales.lock(session, sale.id)
        assert locked is not None
        events = [parse_event(*each) for each in await events_from(redis, sale.id, 1, 1, 10)]
        await write_batch(session, locked, events, await sales.database_time(session), settings)
    found = await trail(database, redis, UUID(bytes=order_id))
    assert facts(found, Source.LEDGER) == [("reserved", {**reserved, "recorded": True})]
    assert [event for event, _ in facts(found, Source.ORDER)] == ["recorded"]


async def test_late_money_ties_an_expired_order_to_the_one_that_replaces_it(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await make_due(shop, [order.id])
    await expire_due(shop.database, shop.redis, shop.settings)
    await pay(shop, order)
    await match_payments(shop.database, shop.redis, shop.settings)
    await shop.drained(sale)
    await match_payments(shop.database, shop.redis, shop.settings)

    expired = await until(shop, order.id, "order", "replaced")
    replacement = (await ask(shop, expired["row"]["replaced_by"])).json()

    assert (expired["row"]["status"], replacement["row"]["status"]) == ("expired", "paid")
    assert replacement["row"]["replaces"] == str(order.id)
    [settled] = [entry for entry in replacement["entries"] if entry["event"] == "settled"]
    assert settled["facts"] == {"payment": str(order.id), "paid_order": replacement["order_id"]}


async def test_a_reservation_that_was_reported_after_a_loss_is_shown_without_a_row(
    database: Database, redis: aioredis.Redis
) -> None:
    """Also one that could not be kept: it is in no ledger and in no row any more."""
    sale = await make_sale(database)
    order_id = ids_of_sale(sale.id).first
    async with database.transaction() as session:
        promise = Promise(sale.id, 1, order_id, 4, new_user_id(), 2)
        await recoveries.add_claims(session, [promise], source="receipt")
        await recoveries.close_claims(session, sale.id, 1, [order_id], ClaimOutcome.REFUSED)

    found = await trail(database, redis, order_id)

    assert (found.row, found.ledger) == (None, None)
    claim = {"by": "receipt", "epoch": 1, "seq": 4, "quantity": 2, "outcome": "refused"}
    assert facts(found, Source.RECOVERY) == [("reported", claim)]


async def test_whom_the_shop_has_told_is_in_the_trail(database: Database, redis: aioredis.Redis) -> None:
    """An ordinary order has no sale and no ledger; its reservation is one of its events."""
    order = await make_order(database)
    await move_order(database, order, OrderStatus.PAID)
    webhook, told = await make_webhook(database), notification_id(Kind.PAID, order.id)
    async with database.transaction() as session:
        record_admin_event(session, TESTER, action="looked", subject="order", subject_id=str(order.id), why="a test")
        session.add(Notification(id=told, kind=Kind.PAID, order_id=order.id, user_id=order.user_id, payload={}))
        await session.flush()
        session.add(
            Delivery(
                notification_id=told, sink=Sink.WEBHOOK, webhook_id=webhook.id, tries=3,
                give_up_at=order.expires_at, dead_at=order.expires_at, last_error="410",
            )
        )  # fmt: skip

    found = await trail(database, redis, order.id)

    assert (found.sale_id, found.ledger, found.more) == (None, None, [])
    assert [event for event, _ in facts(found, Source.ORDER)] == ["recorded", "reserved", "paid"]
    [(made, _), (dead, delivery)] = facts(found, Source.NOTIFICATION)
    assert (made, dead) == ("order.paid", "dead")
    assert (delivery["sink"], delivery["tries"], delivery["last_error"]) == ("webhook", 3, "410")
    [(action, event)] = facts(found, Source.ADMIN)
    assert (action, event["actor"], event["details"]) == ("looked", TESTER.id, {"why": "a test"})


async def test_a_list_that_is_too_long_is_cut_and_says_so(database: Database, redis: aioredis.Redis) -> None:
    order = await make_order(database)
    moves = [
        {"order_id": order.id, "status": "replaced", "moved_by": "shop", "reason": str(n)} for n in range(ROWS_MAX)
    ]
    async with database.transaction() as session:
        await session.execute(insert(OrderEvent), moves)

    found = await trail(database, redis, order.id)

    assert found.more == [Source.ORDER]
    assert len(found.entries) == ROWS_MAX + 1


async def test_without_redis_a_recorded_order_is_told_and_another_cannot_be(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """Nobody can say of an order without a row that it was never made."""
    sale = await make_sale(database)
    order = await make_order(database)
    absent = connect(f"unix://{tmp_path}/absent.sock", settings)

    assert (await trail(database, absent, order.id)).row is not None
    with pytest.raises(NotReady):
        await trail(database, absent, ids_of_sale(sale.id).first)
    await absent.aclose(close_connection_pool=True)


async def test_an_order_that_nobody_knows_is_not_found(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    ordinary = UUID(int=uuid4().int % 2**96)
    for order_id in (ids_of_sale(sale.id).first, ids_of_sale(2**31 - 1).first, UUID(int=2**128 - 1), ordinary):
        problem_of(await ask(shop, order_id), 404, "not_found")
