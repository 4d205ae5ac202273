"""Each notification arrives at least once, under one id, and who does not answer keeps nobody else waiting."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from shop import metrics
from shop.database import Database
from shop.notifications.delivering import repository
from shop.notifications.delivering.delivery import retry_pause, sweep_deliveries, watch_deliveries
from shop.notifications.delivering.sinks import Receiver
from shop.notifications.kinds import Kind, Sink
from shop.notifications.models import Delivery, Notification, Webhook
from shop.settings import Settings
from tests.harness import wait_until
from tests.notifications.outbox import (
    all_collected,
    deliver,
    deliverer,
    deliveries,
    make_due,
    make_order,
    make_webhook,
    read_webhook,
    reserved,
    the_delivery,
)
from tests.notifications.receivers import FLOOD, FLOOD_BYTES, HANG, merchant
from tests.processes import copy_of

DAY = timedelta(hours=24)


@pytest.fixture
def near(settings: Settings) -> Settings:
    """Webhooks may be on this machine."""
    return copy_of(settings, webhook_private_addresses_allowed=True, delivery_timeout_seconds=5.0)


async def test_a_webhook_is_told_under_the_id_of_the_notification(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        await make_webhook(database, receiver.url(path="/hooks?shop=1"))
        await reserved(database, near)
        await deliver(database, near)

    [request] = receiver.requests
    delivery = await the_delivery(database)
    assert request.line == "POST /hooks?shop=1 HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.id == str(delivery.notification_id)
    assert request.event["type"] == "order.reserved"
    assert delivery.delivered_at is not None
    assert delivery.last_error is None


async def test_what_is_delivered_is_not_delivered_again(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)
        await make_due(database)
        await deliver(database, near)

    assert len(receiver.requests) == 1


async def test_connections_to_a_merchant_are_used_again(database: Database, near: Settings) -> None:
    settings = copy_of(near, delivery_batch_max=2)
    async with merchant() as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, settings, 8)
        await deliver(database, settings)

    assert len(receiver.requests) == 8
    assert receiver.connections <= 2


@pytest.mark.parametrize("status", [500, 404, 302, 400])
async def test_any_answer_but_success_is_a_failure_and_no_redirect_is_followed(
    database: Database, near: Settings, status: int
) -> None:
    async with merchant(status=status) as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)

    delivery = await the_delivery(database)
    assert [request.line for request in receiver.requests] == ["POST /hooks HTTP/1.1"]
    assert (delivery.delivered_at, delivery.dead_at) == (None, None)
    assert delivery.last_error == f"answered {status}"


async def test_a_merchant_who_does_not_answer_is_given_up_in_time(database: Database, near: Settings) -> None:
    settings = copy_of(near, delivery_timeout_seconds=0.2)
    async with merchant(status=HANG) as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, settings)
        await deliver(database, settings)

    assert (await the_delivery(database)).last_error == "no answer within 0.2 s"


async def test_an_answer_without_an_end_is_not_read_to_its_end(database: Database, near: Settings) -> None:
    """What was said counts, and not how much."""
    async with merchant(status=FLOOD) as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)

    assert (await the_delivery(database)).delivered_at is not None
    assert receiver.sent < FLOOD_BYTES


async def test_a_merchant_who_hangs_keeps_no_other_one_waiting(database: Database, near: Settings) -> None:
    async with merchant(status=HANG) as slow, merchant() as fast:
        await make_webhook(database, slow.url())
        await make_webhook(database, fast.url())
        await reserved(database, near, 3)
        async with deliverer(database, near) as own:
            await own.start()

            async def fast_is_told() -> bool:
                return len(fast.requests) == 3

            await wait_until(fast_is_told, reason="the other one is told")
            await make_order(database)
            await all_collected(database, near)

            async def told_again() -> bool:
                await all_collected(database, near)
                await own.start()
                return len(fast.requests) == 4

            await wait_until(told_again, reason="the other one is told again")
            assert len(slow.requests) == 3


@pytest.mark.parametrize("tries", [1, 2, 3, 5, 8])
async def test_each_pause_is_three_times_as_long_as_the_one_before(
    database: Database, near: Settings, tries: int
) -> None:
    """As the rows say it: ± 20 %, so that those who failed together do not come back together."""
    async with merchant(status=500) as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        await make_due(database, tries=tries - 1)
        await deliver(database, near)

    async with database.transaction() as session:
        pause = await session.scalar(select(Delivery.next_try_at - func.now()))
    assert pause is not None
    expected = near.delivery_retry_seconds * 3 ** (tries - 1)
    assert 0.8 * expected - 2 <= pause.total_seconds() <= 1.2 * expected
    assert (await the_delivery(database)).tries == tries


def test_those_who_failed_together_do_not_come_back_together(settings: Settings) -> None:
    assert len({retry_pause(settings, 5) for _ in range(20)}) > 1


async def test_the_last_try_is_when_the_day_is_over_and_then_the_delivery_is_dead(
    database: Database, near: Settings
) -> None:
    async with merchant(status=500) as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        await make_due(database, tries=9, give_up_at=func.now() + timedelta(hours=1))
        await deliver(database, near)
        delivery = await the_delivery(database)
        assert delivery.dead_at is None
        assert delivery.next_try_at == delivery.give_up_at

        await make_due(database, give_up_at=func.now())
        await deliver(database, near)

    assert (await the_delivery(database)).dead_at is not None
    assert len(receiver.requests) == 2


async def test_a_delivery_is_given_up_a_day_after_it_was_made(database: Database, near: Settings) -> None:
    await make_webhook(database)
    await reserved(database, near)

    delivery = await the_delivery(database)
    assert delivery.give_up_at - delivery.created_at == DAY


async def test_a_merchant_who_is_gone_is_told_nothing_more(database: Database, near: Settings) -> None:
    """410 disables the webhook; what is pending for others goes on."""
    async with merchant(status=410) as gone:
        webhook = await make_webhook(database, gone.url())
        await reserved(database, near)
        await deliver(database, near)
        await make_order(database)
        await all_collected(database, near)
        await deliver(database, near)

    assert len(gone.requests) == 1
    found = await read_webhook(database, webhook)
    assert found.disabled_reason == "gone"
    assert (await the_delivery(database)).dead_at is not None


async def test_a_webhook_that_failed_for_days_is_disabled(database: Database, near: Settings) -> None:
    async with merchant(status=500) as receiver:
        webhook = await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)
        found = await read_webhook(database, webhook)
        assert (found.failing_since is not None, found.disabled_at) == (True, None)

        days = timedelta(days=near.webhook_disable_after_days)
        async with database.transaction() as session:
            await session.execute(update(Webhook).values(failing_since=func.now() - days))
        await make_due(database)
        await deliver(database, near)

    assert (await read_webhook(database, webhook)).disabled_reason == "failing"


async def test_one_success_makes_a_webhook_well_again(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        webhook = await make_webhook(database, receiver.url())
        async with database.transaction() as session:
            await session.execute(update(Webhook).values(failing_since=func.now() - timedelta(days=30)))
        await reserved(database, near)
        await deliver(database, near)

    found = await read_webhook(database, webhook)
    assert (found.failing_since, found.disabled_at) == (None, None)


async def test_what_is_pending_for_a_disabled_webhook_waits(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        await make_webhook(database, receiver.url())
        await reserved(database, near)
        async with database.transaction() as session:
            await session.execute(update(Webhook).values(disabled_at=func.now(), disabled_reason="admin"))
        await deliver(database, near)
        assert receiver.requests == []

        async with database.transaction() as session:
            await session.execute(update(Webhook).values(disabled_at=None, disabled_reason=None))
        await deliver(database, near)

    assert len(receiver.requests) == 1


async def test_what_is_leased_is_nobody_elses_until_the_lease_is_over(database: Database, near: Settings) -> None:
    """A worker that died in between is followed by another one, under the same id."""
    async with merchant() as receiver:
        webhook = await make_webhook(database, receiver.url())
        await reserved(database, near)
        target = Receiver(Sink.WEBHOOK, webhook.id)
        async with database.transaction() as session:
            [first] = await repository.lease(session, target, limit=10, lasting=timedelta(minutes=1))
        await deliver(database, near)
        assert receiver.requests == []

        await make_due(database)
        await deliver(database, near)

    assert receiver.requests[0].id == str(first.notification_id)


async def test_two_who_lease_at_once_get_different_deliveries(database: Database, near: Settings) -> None:
    webhook = await make_webhook(database)
    await reserved(database, near, 4)
    target, minute = Receiver(Sink.WEBHOOK, webhook.id), timedelta(minutes=1)

    async with database.transaction() as one, database.transaction() as other:
        first = await repository.lease(one, target, limit=2, lasting=minute)
        second = await asyncio.wait_for(repository.lease(other, target, limit=4, lasting=minute), 2)

    assert (len(first), len(second)) == (2, 2)
    assert {each.id for each in first}.isdisjoint({each.id for each in second})


async def test_a_worker_whose_lease_is_over_does_not_undo_what_the_next_one_did(
    database: Database, near: Settings
) -> None:
    """It was stopped in mid-delivery and goes on: its failure is old news, its success is not."""
    webhook = await make_webhook(database)
    await reserved(database, near)
    target, over = Receiver(Sink.WEBHOOK, webhook.id), timedelta(0)
    async with database.transaction() as session:
        [stale] = await repository.lease(session, target, limit=1, lasting=over)
    async with database.transaction() as session:
        [fresh] = await repository.lease(session, target, limit=1, lasting=timedelta(minutes=1))

    async with database.transaction() as session:
        assert not await repository.record_failed(session, stale, reason="old", pause=over, final=True)
    delivery = await the_delivery(database)
    assert (delivery.dead_at, delivery.last_error) == (None, None)

    async with database.transaction() as session:
        await repository.record_delivered(session, [stale])
        assert not await repository.record_failed(session, fresh, reason="new", pause=over, final=True)
    assert (await the_delivery(database)).delivered_at is not None


async def test_a_sink_that_breaks_counts_as_a_try_that_failed(database: Database, near: Settings) -> None:
    """Whatever a sink raises, the delivery keeps its place in the schedule."""
    webhook = await make_webhook(database, "nonsense")
    await reserved(database, near)
    await deliver(database, near)

    delivery = await the_delivery(database)
    assert (delivery.tries, delivery.dead_at) == (1, None)
    assert delivery.last_error is not None
    assert (await read_webhook(database, webhook)).failing_since is not None


async def test_what_nobody_is_there_for_is_given_up(database: Database, near: Settings) -> None:
    """A sink was turned off, or a webhook was deleted: a day later what was meant for it is a dead letter."""
    await reserved(database, copy_of(near, notification_log=True))
    await make_due(database, give_up_at=func.now() - timedelta(hours=1))
    await sweep_deliveries(database, near)

    delivery = await the_delivery(database)
    assert delivery.dead_at is not None
    assert delivery.last_error == "nobody was there to be told"


async def test_old_notifications_are_deleted_unless_one_is_pending(database: Database, near: Settings) -> None:
    settings = copy_of(near, notification_log=True)
    await reserved(database, settings, 2)
    first, second = await deliveries(database)
    async with database.transaction() as session:
        done = update(Delivery).where(Delivery.id == first.id).values(delivered_at=func.now())
        await session.execute(done)
        old = func.now() - timedelta(days=near.notification_keep_days + 1)
        await session.execute(update(Notification).values(created_at=old))

    await sweep_deliveries(database, settings)

    assert [each.id for each in await deliveries(database)] == [second.id]
    async with database.transaction() as session:
        assert list(await session.scalars(select(Notification.id))) == [second.notification_id]


async def test_the_metrics_tell_what_became_of_each_try_and_how_old_the_oldest_is(
    database: Database, near: Settings
) -> None:
    def counted(outcome: str) -> float:
        return float(metrics.DELIVERIES.labels("webhook", outcome)._value.get())

    before = {outcome: counted(outcome) for outcome in ("delivered", "failed", "dead")}
    async with merchant() as well, merchant(status=500) as ill:
        await make_webhook(database, well.url())
        await make_webhook(database, ill.url(), [Kind.RESERVED])
        await reserved(database, near)
        await deliver(database, near)
        await make_due(database, give_up_at=func.now() - timedelta(seconds=1))
        await deliver(database, near)

    assert {outcome: counted(outcome) - count for outcome, count in before.items()} == {
        "delivered": 1, "failed": 2, "dead": 1,
    }  # fmt: skip
    await watch_deliveries(database, near)
    assert metrics.OLDEST_UNDELIVERED._value.get() == 0

    await make_webhook(database)
    order_age = timedelta(minutes=5)
    await make_order(database)
    await wait_until(lambda: _pending(database, near), reason="it is collected")
    await make_due(database, give_up_at=func.now() + DAY - order_age)
    await watch_deliveries(database, near)
    assert order_age.total_seconds() <= metrics.OLDEST_UNDELIVERED._value.get() < order_age.total_seconds() + 5


async def _pending(database: Database, settings: Settings) -> bool:
    await all_collected(database, settings)
    return any(each.delivered_at is None and each.dead_at is None for each in await deliveries(database))
