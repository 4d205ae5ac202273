"""A thing that nobody can be told of keeps nothing else from being told."""

import pytest
from sqlalchemy import text, update

from shop.database import Database
from shop.failure_isolation import Isolation
from shop.notifications.collecting.collector import collect
from shop.notifications.kinds import Kind
from shop.notifications.models import Notification
from shop.orders.models import OrderStatus
from shop.settings import Settings
from tests.faults.isolation.counted import one_more_fails
from tests.faults.isolation.poisoned import unreadable
from tests.notifications.outbox import (
    all_collected,
    deliver,
    deliveries,
    drain,
    make_order,
    make_sale,
    make_user,
    make_webhook,
    move_order,
    told,
)
from tests.processes import copy_of


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Everything is told to the log."""
    return copy_of(settings, notification_log=True)


async def test_a_purchase_an_event_and_an_account_that_cannot_be_read_are_passed_over(
    database: Database, settings: Settings
) -> None:
    sale = await make_sale(database)
    bought = await drain(database, settings, sale, 3)
    orders = [await make_order(database) for _ in range(3)]
    users = [await make_user(database) for _ in range(3)]
    for order in orders:
        await move_order(database, order, OrderStatus.CANCELLED)
    isolation = Isolation("notifications", settings)
    await unreadable(database, "orders", "reserved_at", id=bought[1])
    await unreadable(database, "orders", "reserved_at", id=orders[1].id)
    await unreadable(database, "users", "created_at", id=users[1])

    while await collect(database, settings, isolation):
        pass

    subjects = {subject for _, subject in await told(database)}
    assert subjects == {bought[0], bought[2], orders[0].id, orders[2].id, users[0], users[2]}
    assert isolation.count >= 3


async def test_a_webhook_that_cannot_be_read_hides_no_other(database: Database, settings: Settings) -> None:
    broken, whole = await make_webhook(database), await make_webhook(database)
    async with database.transaction() as session:
        await session.execute(text("UPDATE webhooks SET events = '5' WHERE id = :id"), {"id": broken.id})
    order = await make_order(database)
    await move_order(database, order, OrderStatus.CANCELLED)

    with one_more_fails("notifications"):
        await collect(database, settings)

    assert {each.webhook_id for each in await deliveries(database)} == {None, whole.id}


async def test_a_delivery_that_cannot_be_read_keeps_no_other_of_its_receiver_waiting(
    database: Database, settings: Settings
) -> None:
    orders = [await make_order(database) for _ in range(3)]
    for order in orders:
        await move_order(database, order, OrderStatus.CANCELLED)
    await all_collected(database, settings)
    async with database.transaction() as session:
        poisoned = update(Notification).where(
            Notification.order_id == orders[1].id, Notification.kind == Kind.CANCELLED
        )
        await session.execute(poisoned.values(created_at=text("'20000-01-01'")))
    made = len(await deliveries(database))

    with one_more_fails("deliveries"):
        await deliver(database, settings)

    undelivered = [each for each in await deliveries(database) if each.delivered_at is None]
    assert (len(undelivered), made > 3) == (1, True)
    assert {each.tries for each in undelivered} == {1}
