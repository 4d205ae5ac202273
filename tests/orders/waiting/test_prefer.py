"""`Prefer: wait=N` (RFC 7240): the purchase that is answered when its row is there."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

import httpx
import pytest

from shop.ledger import client as ledger
from shop.orders import repository
from shop.sales.models import Sale
from shop.seckill.waiting import WAIT_SECONDS_MAX, parse_wait
from tests.api.answers import receipt_of
from tests.api.orders import cancel, recording_held_up, until_released
from tests.harness import Shop, new_user_id, outcome, running_shop, wait_until
from tests.processes import copy_of
from tests.server.connections.wishes import Wish
from tests.server.raw import Wire, wire

ANSWER_SECONDS = 5.0
RACES, AT_ONCE = 200, 20


async def buy(
    shop: Shop, sale: Sale, user_id: str | None = None, *, prefer: str | None = "wait=10", key: str | None = None
) -> httpx.Response:
    """A purchase that prefers to wait, unless it is told otherwise."""
    headers = shop.headers(user_id, key=key)
    if prefer is not None:
        headers["Prefer"] = prefer
    return await (await shop.client()).post(shop.purchase_path(sale), headers=headers, json={"quantity": 1})


async def has_row(shop: Shop, answer: httpx.Response) -> bool:
    """Whether the order that was answered is recorded."""
    order_id = UUID(answer.json()["id"])
    async with shop.database.transaction() as session:
        return order_id in await repository.versions(session, [order_id])


@pytest.fixture
async def sale(shop: Shop, listening: Shop) -> Sale:
    """A sale that both APIs know."""
    found = await shop.open_sale(units=1_000)
    await listening.until_loaded(found)
    return found


async def test_a_purchase_that_waits_is_answered_with_201_and_has_its_row(listening: Shop, sale: Sale) -> None:
    """The body and the receipt are those of a 202."""
    answer = await buy(listening, sale)

    assert (answer.status_code, answer.headers["preference-applied"]) == (201, "wait=10")
    assert await has_row(listening, answer)
    assert answer.headers["location"] == f"/v1/orders/{answer.json()['id']}"
    assert receipt_of(listening, answer).order_id == answer.json()["id"]
    assert (await listening.buy(sale)).json().keys() == answer.json().keys()


async def test_the_record_is_never_missed_however_close_it_follows(listening: Shop, sale: Sale) -> None:
    """Every one of many is 201, with a key and without one, and every 201 has its row now (I6)."""
    for start in range(0, RACES, AT_ONCE):
        keys = [f"key-{number}" if number % 2 else None for number in range(start, start + AT_ONCE)]
        answers = await asyncio.gather(*(buy(listening, sale, new_user_id(), key=key) for key in keys))

        assert {answer.status_code for answer in answers} == {201}
        order_ids = [UUID(answer.json()["id"]) for answer in answers]
        async with listening.database.transaction() as session:
            assert len(await repository.versions(session, order_ids)) == AT_ONCE


async def test_a_purchase_that_does_not_ask_to_wait_does_not(listening: Shop, sale: Sale) -> None:
    async with recording_held_up(listening, sale):
        answer = await buy(listening, sale, prefer=None)

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_a_purchase_that_has_waited_in_vain_is_accepted(listening: Shop, sale: Sale) -> None:
    """202 after the time that it gave, which says as much."""
    async with recording_held_up(listening, sale):
        begun = asyncio.get_running_loop().time()
        answer = await buy(listening, sale, prefer="wait=1")
        waited = asyncio.get_running_loop().time() - begun

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert waited >= 1.0
    await listening.drained(sale)
    assert await has_row(listening, answer)


async def test_a_new_order_after_a_cancelled_one_is_waited_for_as_well(shop: Shop, sale: Sale) -> None:
    """Without a key the id is known only when the ledger has said which number is next."""
    user = new_user_id()
    first = await buy(shop, sale, user)
    await cancel(shop, first.json()["id"], user)
    await until_released(shop, first.json()["id"], user)

    second = await buy(shop, sale, user)

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


async def test_a_repeat_does_not_wait(listening: Shop, sale: Sale) -> None:
    """It is no news that its order exists."""
    user = new_user_id()
    async with recording_held_up(listening, sale):
        await buy(listening, sale, user, prefer=None, key="once")
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await buy(listening, sale, user, key="once")

    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (200, "true")
    assert "preference-applied" not in answer.headers


async def test_a_refusal_does_not_wait(listening: Shop, shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    await listening.until_loaded(sale)
    await buy(listening, sale)

    async with asyncio.timeout(ANSWER_SECONDS):
        assert outcome(await buy(listening, sale)) == "sold_out"


async def test_a_process_that_stops_answers_those_who_wait(live_shop: Shop, sale: Sale) -> None:
    """They are accepted, and the connection says that it was the last answer."""
    settings = copy_of(live_shop.settings, graceful_stop_seconds=WAIT_SECONDS_MAX)
    async with recording_held_up(live_shop, sale), AsyncExitStack() as api:
        stopping = await api.enter_async_context(running_shop(settings, worker=False))
        await stopping.until_loaded(sale)
        async with wire(stopping) as connection:
            await reserved(connection, Wish.of(stopping, sale), live_shop)

            begun = asyncio.get_running_loop().time()
            ending = asyncio.create_task(api.aclose())
            answer = await connection.answer()
        await ending

        assert asyncio.get_running_loop().time() - begun < ANSWER_SECONDS
        assert (answer.status, answer.closes) == (202, True)
        assert "preference-applied" not in answer.headers


async def reserved(connection: Wire, wish: Wish, shop: Shop) -> None:
    """Send the wish, which waits; return when the ledger has it."""
    connection.send(wish.request("Prefer: wait=10"))

    await wait_until(lambda: is_reserved(shop, wish.sale), reason="it is reserved")


async def is_reserved(shop: Shop, sale: Sale) -> bool:
    """Whether the ledger has given a unit away."""
    state = await ledger.read_state(shop.redis, sale.id, sale.epoch)
    assert state is not None
    return state.available < sale.units


async def test_a_process_with_too_many_listeners_does_not_let_a_purchase_wait(live_shop: Shop, sale: Sale) -> None:
    """It is accepted at once: waiting is a favour."""
    settings = copy_of(live_shop.settings, order_listeners_max=1)
    async with running_shop(settings, worker=False) as full, recording_held_up(live_shop, sale):
        await full.until_loaded(sale)
        first = asyncio.create_task(buy(full, sale, prefer="wait=1"))
        await wait_until(lambda: is_reserved(live_shop, sale), reason="the first one waits")

        answer = await buy(full, sale)

        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers
        assert not first.done()
        assert (await first).headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (b"wait=5", 5),
        (b"WAIT=5", 5),
        (b'wait="5"', 5),
        (b" wait = 5 ", 5),
        (b"wait=5; foo=bar", 5),
        (b"respond-async, wait=7", 7),
        (b"return=minimal,wait=007", 7),
        (b"wait=11", WAIT_SECONDS_MAX),
        (b"wait=999999999", WAIT_SECONDS_MAX),
        (b"wait=9999999999", 0),
        (b"wait=0", 0),
        (b"wait=-1", 0),
        (b"wait=1.5", 0),
        (b"wait=+1", 0),
        (b"wait=ten", 0),
        (b"wait=", 0),
        (b"wait", 0),
        (b"waiter=5", 0),
        (b"await=5", 0),
        (b"", 0),
        (b",,;=,\xff", 0),
        (b"wait=x, wait=5", 0),
        (b"wait=3, wait=5", 3),
        (b'wait="5', 0),
        ("wait=٣".encode(), 0),
    ],
)
def test_a_wait_is_a_number_of_seconds_and_anything_else_is_ignored(prefer: bytes, seconds: int) -> None:
    """RFC 7240: of two the first counts, and what cannot be read is as if it were not there."""
    assert parse_wait(prefer) == seconds


async def test_preferences_may_come_in_several_headers(listening: Shop, sale: Sale) -> None:
    wish = Wish.of(listening, sale)
    async with wire(listening) as connection:
        connection.send(wish.request("Prefer: respond-async", "Prefer: wait=10"))
        assert (await connection.answer()).status == 201


@pytest.mark.parametrize("prefer", ["wait=0", "wait=x", "handling=strict"])
async def test_a_preference_that_is_none_of_ours_changes_nothing(listening: Shop, sale: Sale, prefer: str) -> None:
    answer = await buy(listening, sale, prefer=prefer)

    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers
