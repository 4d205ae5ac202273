"""An order followed as server-sent events: its state first, then each change, as it happens."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest

from shop.auth import Revocations, TokenVerifier
from shop.database import Database
from shop.order_news import Announcer, Changes
from shop.orders.announcing import ANNOUNCER
from shop.orders.life import By, move
from shop.orders.models import OrderStatus
from shop.orders.order_stream import Streams
from tests.api.answers import problem_of
from tests.api.orders import cancel, read, recording_held_up, until_released
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.orders.waiting.streams import follow_request, following, order_reader, recorded_order
from tests.processes import copy_of

STREAMS_SECONDS_MAX = 60.0


async def test_the_first_event_is_the_order_as_it_is_now(listening: Shop) -> None:
    order_id, user = await recorded_order(listening)

    async with following(listening, order_id, user) as stream:
        event = await stream.next()

    assert stream.answer.headers["content-type"].startswith("text/event-stream")
    assert "no-store" in stream.answer.headers["cache-control"]
    assert stream.answer.headers["x-accel-buffering"] == "no"
    assert event.order == (await read(listening, order_id, user)).json()


async def test_each_change_of_an_order_is_an_event_until_nothing_more_can_come(listening: Shop) -> None:
    """Accepted, recorded, cancelled, released: the ids grow by one, and the stream ends by itself."""
    sale, user = await listening.open_sale(units=5), new_user_id()
    async with AsyncExitStack() as stack:
        async with recording_held_up(listening, sale):
            order_id = await listening.bought(sale, user)
            stream = await stack.enter_async_context(following(listening, order_id, user))
            accepted = await stream.next()
        recorded = await stream.next()
        async with recording_held_up(listening, sale):
            await cancel(listening, order_id, user)
            cancelled = await stream.next()
        closed = [cancelled, *await stream.until_ended()]

    assert (accepted.order["recorded"], recorded.order["recorded"]) == (False, True)
    assert [event.last_change for event in (accepted, recorded)] == ["reserved", "reserved"]
    assert [event.last_change for event in closed] == ["cancelled", "released"]
    assert [int(event.id) for event in (accepted, recorded, *closed)] == [1, 2, 3, 4]
    assert closed[-1].order == (await read(listening, order_id, user)).json()


async def test_a_hold_that_runs_out_is_an_event_though_another_process_expires_it(listening: Shop) -> None:
    sale, user = await listening.open_sale(units=5, hold_seconds=1), new_user_id()
    order_id = await listening.bought(sale, user)

    async with following(listening, order_id, user) as stream:
        events = await stream.until_ended()

    assert [event.last_change for event in events[-2:]] == ["expired", "released"]


async def test_whatever_moves_an_order_is_announced(listening: Shop) -> None:
    """Also what is not built yet: whoever moves it does not have to remember."""
    order_id, user = await recorded_order(listening)
    async with following(listening, order_id, user) as stream:
        await stream.next()
        announcer = Announcer(listening.redis, listening.settings)
        database = Database(listening.settings, application_name="shop-tests", info={ANNOUNCER: announcer})
        async with database.transaction() as session:
            await move(session, [UUID(order_id)], OrderStatus.PAID, by=By.PROVIDER, reason="paid")

        assert (await stream.next()).last_change == "paid"
        await database.close()


async def test_an_order_of_the_catalogue_is_followed_too(listening: Shop) -> None:
    """It is closed and released in one step, so its cancellation is its end."""
    product, user = await listening.make_product(), new_user_id()
    placed = await (await listening.client()).post(
        "/v1/orders",
        headers=listening.headers(user, key="once"),
        json={"lines": [{"product_id": product.id, "quantity": 1}]},
    )
    order_id = placed.json()["id"]
    async with following(listening, order_id, user) as stream:
        await stream.next()
        await cancel(listening, order_id, user)
        [event] = await stream.until_ended()

    assert (event.order["status"], event.last_change) == ("cancelled", "released")


async def test_a_change_between_the_request_and_the_first_event_is_not_missed(listening: Shop) -> None:
    """F43, many times: a cancellation races with the beginning of the stream."""
    sale = await listening.open_sale(units=100)

    async def follow_and_cancel() -> str:
        user = new_user_id()
        order_id = await listening.bought(sale, user)

        async def cancelled() -> bool:
            return (await cancel(listening, order_id, user)).status_code == 200  # else its row is on its way

        cancelling = asyncio.create_task(wait_until(cancelled, reason="the order is cancelled"))
        async with following(listening, order_id, user) as stream:
            *_, last = await stream.until_ended()
        await cancelling
        return last.last_change

    async with asyncio.timeout(STREAMS_SECONDS_MAX):
        assert set(await asyncio.gather(*(follow_and_cancel() for _ in range(25)))) == {"released"}


async def test_a_client_that_comes_back_is_not_told_what_it_knows(listening: Shop) -> None:
    """`Last-Event-ID` names the state that it has; what has changed since is the first event."""
    order_id, user = await recorded_order(listening)
    async with following(listening, order_id, user) as stream:
        known = (await stream.next()).id

    async with following(listening, order_id, user, last_event_id=known) as stream:
        assert "data" not in (await stream.next_of_any_kind()).fields
        assert (await stream.next_of_any_kind()).is_comment
        await cancel(listening, order_id, user)
        assert int((await stream.next()).id) > int(known)

    await until_released(listening, order_id, user)
    async with following(listening, order_id, user, last_event_id=known) as stream:
        [event] = await stream.until_ended()
    assert event.last_change == "released"


async def test_a_client_that_knows_the_last_state_is_told_not_to_come_back(listening: Shop) -> None:
    """204 is what makes a browser's EventSource give up."""
    order_id, user = await recorded_order(listening)
    await cancel(listening, order_id, user)
    await until_released(listening, order_id, user)
    async with following(listening, order_id, user) as stream:
        [event] = await stream.until_ended()

    answer = await follow_request(listening, order_id, user, last_event_id=event.id)

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "9" * 50])
async def test_a_last_event_id_that_is_none_of_ours_is_ignored(listening: Shop, last: str) -> None:
    order_id, user = await recorded_order(listening)
    async with following(listening, order_id, user, last_event_id=last) as stream:
        assert (await stream.next()).id == "2"


async def test_a_stream_says_when_to_come_back_and_is_never_silent_for_long(listening: Shop) -> None:
    """Comments keep proxies from closing it, and show whether the client is still there."""
    order_id, user = await recorded_order(listening)
    async with following(listening, order_id, user) as stream:
        first = await stream.next_of_any_kind()
        heartbeats = [await stream.next_of_any_kind() for _ in range(3)]

    # In the first event: a block without data is an empty event to some readers.
    assert int(first.fields["retry"]) >= 1_000
    assert first.order["id"] == order_id
    assert all(heartbeat.is_comment for heartbeat in heartbeats)


async def test_a_stream_of_somebody_elses_order_is_not_found_recorded_or_not(listening: Shop) -> None:
    sale, owner, other = await listening.open_sale(units=5), new_user_id(), new_user_id()
    async with recording_held_up(listening, sale):
        order_id = await listening.bought(sale, owner)
        problem_of(await follow_request(listening, order_id, other), 404, "not_found")
    await listening.drained(sale)
    problem_of(await follow_request(listening, order_id, other), 404, "not_found")


async def test_a_stream_of_an_order_that_does_not_exist_is_not_found(listening: Shop) -> None:
    problem_of(await follow_request(listening, str(uuid4()), new_user_id()), 404, "not_found")


async def test_a_stream_needs_a_token_and_the_id_of_an_order(listening: Shop) -> None:
    client = await listening.client()

    problem_of(await client.get(f"/v1/orders/{uuid4()}/events"), 401, "unauthorized")
    problem_of(await follow_request(listening, "x", new_user_id()), 422, "invalid")


async def test_a_change_that_was_not_announced_is_found_by_a_poll(live_shop: Shop) -> None:
    """A message may be lost: the tests' own database tells nobody of this one."""
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, order_poll_seconds=0.1)
    async with running_shop(settings, worker=False) as polling, following(polling, order_id, user) as stream:
        await stream.next()
        async with live_shop.database.transaction() as session:
            await move(session, [UUID(order_id)], OrderStatus.PAID, by=By.PROVIDER, reason="paid")

        assert (await stream.next()).last_change == "paid"


async def test_changes_are_not_heaped_up_for_a_client_that_reads_slowly(shop: Shop) -> None:
    """It is told what is, not all that was: between two of its reads nothing is kept but that there is news."""
    order_id, user = await recorded_order(shop)
    changes, reader = Changes(shop.redis, shop.settings), order_reader(shop.database, shop.redis, shop.settings)
    streams, buyer = Streams(changes, reader, Revocations(), shop.settings), TokenVerifier(shop.settings)
    told: asyncio.Queue[bytes] = asyncio.Queue()
    reads = asyncio.Event()

    async def write(event: bytes) -> None:
        await told.put(event)
        await reads.wait()

    with streams.begin(UUID(order_id), buyer.verify(shop.token(user)), address=None, seen=None) as stream:
        await stream.open()
        telling = asyncio.create_task(stream.tell(write))
        first = await told.get()
        for status in (OrderStatus.PAID, OrderStatus.REFUNDED):
            async with shop.database.transaction() as session:
                await move(session, [UUID(order_id)], status, by=By.ADMIN, reason="a test")
            changes.received(UUID(order_id).bytes)
        reads.set()
        await telling

    assert b"id: 2\n" in first
    assert b"id: 4\n" in told.get_nowait()
    assert told.empty()
