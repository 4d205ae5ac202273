"""How many streams there may be, what each may hold, and when it ends."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from shop.order_news import Announcer
from shop.orders import repository
from tests.api.answers import problem_of
from tests.api.orders import read
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.orders.waiting.conftest import STREAMS_PER_ORDER
from tests.orders.waiting.streams import follow_request, following, recorded_order
from tests.processes import copy_of
from tests.server.raw import wire

TOKEN_SECONDS = 4
ENDED_SECONDS = 3.0  # the process learns of it within one
STOP_SECONDS_MAX = 5.0
MANY_STREAMS = 30
# Enough to fill what the network takes for a client that does not read, in a few events.
MANY_MOVES = 5_000


async def test_an_order_has_a_bound_of_streams_and_who_leaves_makes_room(listening: Shop) -> None:
    """The server notices that a client has left, without sending it anything."""
    order_id, user = await recorded_order(listening)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(following(listening, order_id, user)) for _ in range(STREAMS_PER_ORDER)
        ]
        assert [(await stream.next()).id for stream in streams] == ["2"] * STREAMS_PER_ORDER
        problem_of(await follow_request(listening, order_id, user), 429, "rate_limited")

    await wait_until(lambda: followed(listening, order_id, user), reason="there is room again")


async def followed(shop: Shop, order_id: str, user_id: str) -> bool:
    """Whether a stream is accepted."""
    async with following(shop, order_id, user_id) as stream:
        return stream.answer.status_code == 200


async def test_a_process_with_too_many_listeners_refuses_another_stream(live_shop: Shop) -> None:
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, order_listeners_max=1)
    async with running_shop(settings, worker=False) as full, following(full, order_id, user) as stream:
        await stream.next()
        problem_of(await follow_request(full, order_id, user), 503, "overloaded")


async def test_streams_hold_no_connection_to_the_database_while_they_wait(live_shop: Shop) -> None:
    """With one connection, many of them can be open, and others read."""
    sale, user = await live_shop.open_sale(units=MANY_STREAMS, units_per_user=MANY_STREAMS), new_user_id()
    order_ids = [await live_shop.bought(sale, user, key=str(number)) for number in range(10)]
    await live_shop.drained(sale)
    settings = copy_of(
        live_shop.settings, database_pool_max=1, redis_pool_max=4, listeners_per_account_max=MANY_STREAMS
    )
    async with running_shop(settings, worker=False) as poor, AsyncExitStack() as stack:
        followed = order_ids * (MANY_STREAMS // len(order_ids))
        streams = [await stack.enter_async_context(following(poor, order_id, user)) for order_id in followed]
        assert [(await stream.next()).id for stream in streams] == ["2"] * MANY_STREAMS

        assert (await read(poor, order_ids[0], user)).status_code == 200


async def test_one_account_does_not_take_all_slots(live_shop: Shop) -> None:
    """Nor one address: a small process has slots left for others, whatever they are refused."""
    sale, greedy = await live_shop.open_sale(units=8, units_per_user=8), new_user_id()
    order_ids = [await live_shop.bought(sale, greedy, key=str(number)) for number in range(5)]
    other = new_user_id()
    order_of_other = await live_shop.bought(sale, other)
    await live_shop.drained(sale)
    settings = copy_of(live_shop.settings, order_listeners_max=16, listeners_per_account_max=6)
    async with running_shop(settings, worker=False) as small, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(following(small, order_id, greedy))
            for order_id in order_ids
            for _ in range(8)
        ]
        assert [stream.answer.status_code for stream in streams] == [200] * 6 + [429] * 34
        async with following(small, order_of_other, other) as stream:
            assert (await stream.next()).id == "2"


async def test_one_address_does_not_take_all_slots(live_shop: Shop) -> None:
    """As its proxy names it: the proxy itself is not one client."""
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, listeners_per_address_max=2, listeners_per_order_max=20)
    async with running_shop(settings, worker=False) as shop, AsyncExitStack() as stack:

        async def status_from(address: str | None) -> int:
            headers = {} if address is None else {"X_Forwarded_For": address}
            stream = await stack.enter_async_context(following(shop, order_id, user, **headers))
            return stream.answer.status_code

        assert [await status_from("192.0.2.1") for _ in range(3)] == [200, 200, 429]
        assert [await status_from(f"2001:db8::{n}") for n in range(3)] == [200, 200, 429]
        assert [await status_from(address) for address in ("192.0.2.2", None, None, None)] == [200] * 4


@pytest.mark.parametrize("how", ["block", "sign_out"])
async def test_a_stream_ends_with_the_right_to_it(listening: Shop, how: str) -> None:
    """At once, without another state, however long it could have lasted."""
    user = await listening.sign_up()
    client = await listening.client()
    user_id = (await client.get("/v1/me", headers=user)).json()["id"]
    order_id, _ = await recorded_order(listening, user_id)
    async with following(listening, order_id, user_id) as stream:
        await stream.next()
        if how == "block":
            answer = await client.post(f"/v1/admin/users/{user_id}/block", headers=listening.admin_headers())
        else:
            answer = await client.post("/v1/auth/sign-out-everywhere", headers=user)
        assert answer.is_success, answer.text

        async with asyncio.timeout(ENDED_SECONDS):
            assert await stream.until_ended() == []


async def test_a_stream_ends_when_its_token_runs_out(live_shop: Shop) -> None:
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, token_lifetime_seconds=TOKEN_SECONDS)
    async with running_shop(settings, worker=False) as shop, following(shop, order_id, user) as stream:
        assert stream.answer.status_code == 200

        async with asyncio.timeout(TOKEN_SECONDS + ENDED_SECONDS):
            assert len(await stream.until_ended()) <= 1


async def test_a_stream_is_ended_after_its_time(live_shop: Shop) -> None:
    """As it should be ended, so that the client comes back and goes on."""
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, sse_seconds_max=0.3)
    async with running_shop(settings, worker=False) as brief, following(brief, order_id, user) as stream:
        assert len(await stream.until_ended()) == 1


async def test_a_process_that_stops_ends_its_streams_well_and_soon(live_shop: Shop) -> None:
    order_id, user = await recorded_order(live_shop)
    settings = copy_of(live_shop.settings, graceful_stop_seconds=60)
    async with AsyncExitStack() as api:
        stopping = await api.enter_async_context(running_shop(settings, worker=False))
        async with wire(stopping) as connection:
            connection.send(request(stopping, order_id, user))
            await connection.begun()
            begun = asyncio.get_running_loop().time()
            ending = asyncio.create_task(api.aclose())
            answer = await connection.answer("GET")
            await connection.until_closed()
        await ending

    assert asyncio.get_running_loop().time() - begun < STOP_SECONDS_MAX
    assert answer.status == 200
    assert b"id: 2\n" in answer.body


async def test_a_client_that_does_not_read_is_dropped(live_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are not kept for it: the stream waits for the client, and its connection is cut after a while."""
    monkeypatch.setattr("shop.server.sending.UNREAD_SECONDS_MAX", 0.2)
    order_id, user = await recorded_order(live_shop)
    await move_often(live_shop, order_id, MANY_MOVES)
    settings = copy_of(live_shop.settings, listeners_per_order_max=1, request_seconds_max=0.5)
    async with running_shop(settings, worker=False) as shop, wire(shop, receive_bytes_max=4_096) as deaf:
        deaf.transport.pause_reading()
        deaf.send(request(shop, order_id, user))
        await wait_until(lambda: refused(shop, order_id, user), reason="the stream is open")

        async def dropped() -> bool:
            await move_often(shop, order_id, 1)
            await Announcer(shop.redis, shop.settings).tell([UUID(order_id)])
            return not await refused(shop, order_id, user)

        await wait_until(dropped, reason="the client is dropped")


def request(shop: Shop, order_id: str, user_id: str) -> bytes:
    """The request for an order's events, by the byte."""
    lines = [f"GET /v1/orders/{order_id}/events HTTP/1.1", "Host: shop", f"Authorization: Bearer {shop.token(user_id)}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def move_often(shop: Shop, order_id: str, times: int) -> None:
    """Note so many moves of an order, each of which is in every event from now on."""
    async with shop.database.transaction() as session:
        await repository.add_events(
            session, [UUID(order_id)] * times, status="paid", moved_by="shop", reason="a move among many " * 3
        )


async def refused(shop: Shop, order_id: str, user_id: str) -> bool:
    """Whether another stream of this order is refused, because one is open."""
    async with following(shop, order_id, user_id) as stream:
        return stream.answer.status_code == 429
