"""The sandbox's webhooks: signed, tried until they are taken, and lost, repeated and reordered as told."""

import pytest

from shop.sandbox import provider
from shop.sandbox.webhooks import RETRY_SECONDS_MAX, TRIES_MAX, _next_try_ms, _now_ms
from tests.harness import wait_until
from tests.payments.sandbox.running import Sandbox, running_receiver, running_sandbox, settings_of_a_shop, shown

SECRET = "whsec_dGhlLXNlY3JldC1vZi10aGUtdGVzdHMtaXMtbG9uZw=="


async def none_waits(sandbox: Sandbox) -> dict[str, int]:
    """What became of the webhooks, when none is waiting."""

    async def done() -> dict[str, int] | None:
        webhooks: dict[str, int] = (await sandbox.summary())["webhooks"]
        return None if webhooks["waiting"] else webhooks

    found: dict[str, int] = await wait_until(done, reason="no webhook waits")
    return found


async def test_each_event_is_sent_once_and_signed_and_says_what_the_list_says() -> None:
    settings = settings_of_a_shop(payment_webhook_secret=SECRET)
    async with (
        running_receiver(settings) as receiver,
        running_sandbox(settings, webhook_url=receiver.url) as sandbox,
    ):
        paid = await sandbox.paid()
        await sandbox.refund(paid["id"], 10)

        webhooks = await none_waits(sandbox)
        listed = (await sandbox.events())["data"]

    assert webhooks == {"sent": 3, "lost": 0, "duplicated": 0, "waiting": 0, "abandoned": 0}
    told = sorted(map(shown, receiver.events), key=lambda event: int(event["seq"]))
    assert [{**event, "created_at": None, "data": None} for event in told] == [
        {**event, "created_at": None, "data": None} for event in listed
    ]
    assert [event["data"]["status"] for event in told] == [event["data"]["status"] for event in listed]


async def test_a_lost_webhook_is_never_sent_and_the_list_has_it() -> None:
    async with (
        running_receiver() as receiver,
        running_sandbox(webhook_url=receiver.url, lose_share=1.0) as sandbox,
    ):
        await sandbox.create(key="lost")
        await sandbox.behave()
        await sandbox.create(key="sent")

        webhooks = await none_waits(sandbox)
        listed = (await sandbox.events())["data"]

    assert (webhooks["lost"], webhooks["sent"]) == (1, 1)
    assert [event.seq for event in receiver.events] == [2]
    assert [event["seq"] for event in listed] == [1, 2]


async def test_a_duplicated_webhook_is_the_same_event_twice() -> None:
    async with (
        running_receiver() as receiver,
        running_sandbox(webhook_url=receiver.url, duplicate_share=1.0) as sandbox,
    ):
        await sandbox.create()

        webhooks = await none_waits(sandbox)

    assert (webhooks["sent"], webhooks["duplicated"]) == (2, 1)
    assert receiver.events[0] == receiver.events[1]


async def test_a_reordered_webhook_comes_after_a_later_one_of_its_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as that one was taken, not when its own time is up."""
    monkeypatch.setattr(provider, "HELD_BACK_SECONDS_MAX", 60.0)
    async with (
        running_receiver() as receiver,
        running_sandbox(webhook_url=receiver.url, reorder_share=1.0) as sandbox,
    ):
        await sandbox.paid()

        await receiver.until_told(2)

    assert receiver.types == ["captured", "created"]


async def test_a_reordered_webhook_that_nothing_follows_comes_by_itself() -> None:
    async with (
        running_receiver() as receiver,
        running_sandbox(webhook_url=receiver.url, reorder_share=1.0) as sandbox,
    ):
        await sandbox.create()

        await receiver.until_told(1)

    assert receiver.types == ["created"]


async def test_a_webhook_that_is_not_taken_is_sent_again() -> None:
    async with (
        running_receiver(answers=[500, 302]) as receiver,
        running_sandbox(webhook_url=receiver.url) as sandbox,
    ):
        await sandbox.create()

        webhooks = await none_waits(sandbox)

    assert (receiver.types, receiver.tries, webhooks["sent"]) == (["created"], 3, 1)


async def test_a_receiver_that_is_away_gets_its_webhooks_when_it_is_back() -> None:
    async with running_sandbox(webhook_url="http://127.0.0.1:1/") as sandbox:
        await sandbox.create()
        async with running_receiver() as receiver:
            await sandbox.client.put("/sandbox/webhook", json={"url": receiver.url})

            await receiver.until_told(1)


async def test_one_webhook_that_is_not_taken_does_not_hold_up_the_others() -> None:
    async with (
        running_receiver(answers=[500]) as receiver,
        running_sandbox(webhook_url=receiver.url) as sandbox,
    ):
        await sandbox.create(key="first")

        async def tried() -> bool:
            return receiver.tries > 0

        await wait_until(tried, reason="the first was tried")
        await sandbox.create(key="second")
        await receiver.until_told(2)

    assert [event.seq for event in receiver.events] == [2, 1]


@pytest.mark.parametrize("tries", [0, 5, TRIES_MAX - 2])
def test_the_pause_before_the_next_try_is_bounded(tries: int) -> None:
    due_ms = _next_try_ms(tries)

    assert due_ms is not None
    assert 0 < due_ms - _now_ms() <= RETRY_SECONDS_MAX * 1_000


def test_a_webhook_is_given_up_when_it_was_tried_often_enough() -> None:
    assert _next_try_ms(TRIES_MAX - 1) is None
