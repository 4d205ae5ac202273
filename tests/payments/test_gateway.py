"""The gateway: what it asks of the provider, and how long it has patience."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from shop.breaker import CircuitOpen
from shop.errors import ProviderUnavailable
from shop.payments.contract import ProviderRefund
from shop.payments.gateway import HttpGateway, ProviderRefused
from tests.harness import wait_until
from tests.payments.gateways import ORDER, asking, create, gateway_to, read_events
from tests.payments.raw import Reply, cuts, cuts_in_the_middle, drips, says, says_intent, says_when, stalls
from tests.payments.sandbox.running import Sandbox, running_sandbox

SOON_SECONDS = 10.0


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """One without faults."""
    async with running_sandbox() as running:
        yield running


@pytest.fixture
async def gateway(sandbox: Sandbox) -> AsyncIterator[HttpGateway]:
    """A gateway to the sandbox."""
    async with gateway_to(sandbox.url) as found:
        yield found


# With the sandbox.


async def test_an_order_has_one_intent_however_often_it_is_created(gateway: HttpGateway, sandbox: Sandbox) -> None:
    first, again = await create(gateway), await create(gateway)

    assert first == again
    assert (first.order_id, first.amount_minor, first.currency, first.status) == (str(ORDER), 990, "EUR", "open")
    assert first.pay_url == f"{sandbox.url}/pay/{first.id}"
    assert (await sandbox.summary())["intents"]["open"] == 1


async def test_an_intent_is_read_as_it_is_now(gateway: HttpGateway, sandbox: Sandbox) -> None:
    intent = await create(gateway)
    await sandbox.attempt(intent.id, "pay")

    found = await gateway.read(intent.id)

    assert (found.id, found.status, found.captured_minor, found.attempts) == (intent.id, "captured", 990, 1)


async def test_an_intent_is_cancelled_once_and_twice(gateway: HttpGateway) -> None:
    intent = await create(gateway)

    first, again = await gateway.cancel(intent.id), await gateway.cancel(intent.id)

    assert first == again
    assert first.status == "cancelled"


async def test_a_refund_is_made_once_for_its_key(gateway: HttpGateway, sandbox: Sandbox) -> None:
    intent = await create(gateway)
    await sandbox.attempt(intent.id, "pay")

    first = await gateway.refund(intent.id, key="k", amount_minor=400)
    again = await gateway.refund(intent.id, key="k", amount_minor=400)

    assert first == again == ProviderRefund(id=first.id, key="k", amount_minor=400)
    assert (await gateway.read(intent.id)).refunds == (first,)


async def test_events_are_listed_after_the_one_that_is_known(gateway: HttpGateway, sandbox: Sandbox) -> None:
    intent = await create(gateway)
    await sandbox.attempt(intent.id, "decline")
    await sandbox.attempt(intent.id, "pay")

    events = await read_events(gateway, after=1, limit=1)
    rest = await read_events(gateway, after=events[-1].seq, limit=500)

    assert [(event.seq, event.type) for event in events + rest] == [(2, "payment.failed"), (3, "payment.captured")]
    assert rest[0].data == await gateway.read(intent.id)


async def paid_intent(gateway: HttpGateway, sandbox: Sandbox) -> str:
    intent = await create(gateway)
    await sandbox.attempt(intent.id, "pay")
    return intent.id


async def test_what_the_provider_refuses_is_told_with_its_status_and_code(
    gateway: HttpGateway, sandbox: Sandbox
) -> None:
    intent_id = await paid_intent(gateway, sandbox)
    refused: list[tuple[int, str]] = []

    for call in (
        gateway.read("pi_none"),
        gateway.cancel(intent_id),
        gateway.refund(intent_id, key="k", amount_minor=991),
        create(gateway, amount_minor=1),
    ):
        with pytest.raises(ProviderRefused) as caught:
            await call
        refused.append((caught.value.status, caught.value.code))

    assert refused == [
        (404, "not_found"),
        (409, "already_captured"),
        (422, "refund_too_large"),
        (422, "idempotency_mismatch"),
    ]


async def test_a_wrong_key_of_the_shop_is_a_refusal(sandbox: Sandbox) -> None:
    async with gateway_to(sandbox.url, payment_api_key="wrong") as gateway:
        with pytest.raises(ProviderRefused, match="401 unauthorized"):
            await create(gateway)


async def test_the_repeat_after_a_dropped_reply_gives_the_same_intent(gateway: HttpGateway, sandbox: Sandbox) -> None:
    """Every try of the first call is done at the provider, and none is heard."""
    await sandbox.behave(drop_reply_share=1)
    with pytest.raises(ProviderUnavailable):
        await create(gateway)
    await sandbox.behave()

    intent = await create(gateway)

    (event,) = await read_events(gateway, after=0, limit=10)
    assert (event.type, event.data) == ("payment.created", intent)


async def test_no_call_is_lost_or_done_twice_with_a_provider_that_misbehaves() -> None:
    """Half of the requests fail in one way or the other; whoever asks again gets the truth in the end."""
    async with (
        running_sandbox(refuse_share=0.25, drop_reply_share=0.25, seed=1) as sandbox,
        gateway_to(sandbox.url, payment_tries_max=10, payment_breaker_failures=100) as gateway,
    ):
        orders = [uuid4() for _ in range(10)]

        intents = await asyncio.gather(*(create(gateway, order) for order in orders))

        await sandbox.behave()
        events = await read_events(gateway, after=0, limit=500)
    assert [intent.order_id for intent in intents] == [str(order) for order in orders]
    assert sorted(event.data.id for event in events) == sorted(intent.id for intent in intents)


# With a provider that is not well.


@pytest.mark.parametrize("fault", [cuts, cuts_in_the_middle, says({}, 500), says({}, 503), says({}, 429)])
async def test_a_call_that_failed_is_tried_again_with_the_same_key(fault: Reply) -> None:
    async with asking(fault, says_intent()) as (provider, gateway):
        assert (await create(gateway)).id == "pi_1"

    assert [request["idempotency-key"] for request in provider.requests] == [str(ORDER)] * 2


async def test_a_call_is_tried_so_often_and_no_more() -> None:
    async with asking(says({}, 500), payment_tries_max=3) as (provider, gateway):
        with pytest.raises(ProviderUnavailable):
            await create(gateway)

    assert len(provider.requests) == 3


async def test_what_the_provider_refuses_is_not_tried_again() -> None:
    async with asking(says({"code": "no"}, 409)) as (provider, gateway):
        with pytest.raises(ProviderRefused, match="409 no"):
            await create(gateway)

    assert len(provider.requests) == 1


@pytest.mark.parametrize("fault", [stalls, drips])
async def test_a_provider_that_does_not_come_to_an_end_is_unavailable(fault: Reply) -> None:
    async with (
        asyncio.timeout(SOON_SECONDS),
        asking(fault, payment_timeout_seconds=0.1, payment_tries_max=2) as (provider, gateway),
    ):
        with pytest.raises(ProviderUnavailable):
            await create(gateway)

        assert len(provider.requests) == 2


async def test_all_tries_together_end_with_the_deadline() -> None:
    patience = {"payment_timeout_seconds": 60, "payment_deadline_seconds": 0.2, "payment_tries_max": 10}
    async with asyncio.timeout(SOON_SECONDS), asking(stalls, **patience) as (provider, gateway):
        with pytest.raises(ProviderUnavailable):
            await create(gateway)

        assert len(provider.requests) == 1


async def test_a_provider_that_is_not_there_is_unavailable() -> None:
    async with gateway_to("http://127.0.0.1:1") as gateway:
        with pytest.raises(ProviderUnavailable):
            await create(gateway)


async def test_no_more_connections_are_made_than_allowed() -> None:
    go_on = asyncio.Event()
    async with asking(says_when(go_on, says_intent()), payment_connections_max=2) as (provider, gateway):
        calls = asyncio.gather(*(gateway.read("pi_1") for _ in range(6)))
        await provider.until_asked(2)
        go_on.set()
        await calls

    assert (len(provider.requests), provider.connections_most) == (6, 2)


async def test_who_waits_for_a_connection_in_vain_does_not_blame_the_provider() -> None:
    """The breaker would open at the first failure."""
    go_on = asyncio.Event()
    settings = {"payment_connections_max": 1, "payment_breaker_failures": 1, "payment_tries_max": 1}
    async with asking(says_when(go_on, says_intent()), **settings) as (provider, gateway):
        first = asyncio.create_task(gateway.read("pi_1"))
        await provider.until_asked(1)
        patience = gateway._settings
        short = {"payment_timeout_seconds": 0.05, "payment_deadline_seconds": 0.2}
        gateway._settings = patience.model_copy(update=short)
        for _ in range(2):
            with pytest.raises(ProviderUnavailable) as caught:
                await gateway.read("pi_1")
            assert not isinstance(caught.value.__cause__, CircuitOpen)
        gateway._settings = patience
        go_on.set()
        await first

        assert (await gateway.read("pi_1")).id == "pi_1"


async def test_a_caller_who_leaves_gives_the_connection_back() -> None:
    async with asking(stalls, says_intent(), payment_connections_max=1) as (provider, gateway):
        leaving = asyncio.create_task(gateway.read("pi_1"))
        await provider.until_asked(1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving

        assert (await gateway.read("pi_1")).id == "pi_1"


# The breaker.


async def test_a_provider_that_fails_again_and_again_is_left_alone() -> None:
    settings = {"payment_tries_max": 1, "payment_breaker_failures": 3, "payment_breaker_cooldown_seconds": 60}
    async with asking(says({}, 500), **settings) as (provider, gateway):
        for _ in range(10):
            with pytest.raises(ProviderUnavailable):
                await create(gateway)

    assert len(provider.requests) == 3


async def test_the_tries_of_one_call_open_the_breaker_too() -> None:
    settings = {"payment_tries_max": 10, "payment_breaker_failures": 2, "payment_breaker_cooldown_seconds": 60}
    async with asking(cuts, **settings) as (provider, gateway):
        with pytest.raises(ProviderUnavailable) as caught:
            await create(gateway)

    assert len(provider.requests) == 2
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= 60


@pytest.mark.parametrize("reply", [says({}, 404), says({}, 429)])
async def test_a_provider_that_says_no_is_well(reply: Reply) -> None:
    async with asking(reply, payment_tries_max=1, payment_breaker_failures=1) as (provider, gateway):
        for _ in range(3):
            with pytest.raises((ProviderRefused, ProviderUnavailable)):
                await gateway.read("pi_1")

    assert len(provider.requests) == 3


async def test_a_provider_that_is_back_is_asked_again_after_the_cooldown() -> None:
    settings = {"payment_tries_max": 1, "payment_breaker_failures": 1, "payment_breaker_cooldown_seconds": 0.05}
    async with asking(says({}, 500), says_intent(), **settings) as (_, gateway):
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_1")
        assert breaker_open() == 1

        await until_answered(gateway)

        assert breaker_open() == 0


async def until_answered(gateway: HttpGateway) -> None:
    async def answered() -> bool:
        with suppress(ProviderUnavailable):
            return bool(await gateway.read("pi_1"))
        return False

    await wait_until(answered, reason="the provider is asked again")


def breaker_open() -> float | None:
    return REGISTRY.get_sample_value("shop_provider_breaker_open")


# What is counted.


@pytest.fixture
def counted() -> Callable[[], dict[str, float]]:
    """The calls that read an intent since the test began, by outcome."""

    def now() -> dict[str, float]:
        return {
            outcome: REGISTRY.get_sample_value("shop_provider_calls_total", {"operation": "read", "outcome": outcome})
            or 0.0
            for outcome in ("answered", "refused", "unavailable")
        }

    before = now()
    return lambda: {outcome: value - before[outcome] for outcome, value in now().items()}


async def test_calls_are_counted_by_what_came_of_them(counted: Callable[[], dict[str, float]]) -> None:
    async with asking(says_intent(), says({}, 404), says({}, 500), payment_tries_max=2) as (_, gateway):
        await gateway.read("pi_1")
        with pytest.raises(ProviderRefused):
            await gateway.read("pi_1")
        with pytest.raises(ProviderUnavailable):
            await gateway.read("pi_1")

    assert counted() == {"answered": 1, "refused": 1, "unavailable": 1}
