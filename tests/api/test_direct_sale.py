"""A purchase that is whole in one read is answered at the door, and as the lane answers the same one."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from shop.ledger.client import LoadedSale
from shop.ledger.keys import ledger_keys
from shop.sales.models import Sale
from shop.seckill import direct
from shop.seckill.accepted import accepted_body
from shop.seckill.lane import PurchaseLane
from shop.seckill.purchase import Reservation
from tests.harness import Shop, wait_until
from tests.server.connections.wishes import BODY, Wish
from tests.server.raw import Answer, Wire, wire, wires

# What differs from buyer to buyer, and from moment to moment.
OWN = re.compile(
    rb'"(id|reserved_at|expires_not_before|poll_after_ms|receipt|witness|instance|request_id|starts_at|ended_at)":'
    rb'("[^"]*"|[0-9]+)'
)
OWN_HEADERS = frozenset({"date", "location", "x-request-id", "content-length", "ratelimit", "retry-after"})


@pytest.fixture
def in_the_lane(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The purchases that have reached the lane."""
    paths: list[str] = []
    run = PurchaseLane.__call__

    async def noted(self: PurchaseLane, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            paths.append(scope["path"])
        await run(self, scope, receive, send)

    monkeypatch.setattr(PurchaseLane, "__call__", noted)
    return paths


async def open_sale(shop: Shop, in_the_lane: list[str], **wishes: int) -> Sale:
    """A sale that the process knows; nothing of it has come to the lane."""
    sale = await shop.open_sale(**wishes)
    await shop.until_loaded(sale)
    in_the_lane.clear()
    return sale


async def whole(connection: Wire, request: bytes) -> Answer:
    """What is answered to a request in one piece."""
    connection.send(request)
    return await connection.answer()


async def for_the_parser(connection: Wire, request: bytes) -> Answer:
    """What is answered to the same request with a field that only a parser reads, and nobody heeds."""
    return await whole(connection, request.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n", 1))


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """An answer without what is its buyer's own."""
    headers = {name: "" if name in OWN_HEADERS else value for name, value in answer.headers.items()}
    return answer.status, headers, OWN.sub(rb'"\1":', answer.body)


Request = Callable[[Wish], bytes]


def plain(wish: Wish) -> bytes:
    return wish.request("Content-Type: application/json")


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (plain, 202),
        (lambda wish: wish.request("Connection: keep-alive", "User-Agent: a b c"), 202),
        (lambda wish: plain(wish).replace(b"Idempotency-Key", b"X-Other"), 202),
        (lambda wish: wish.request(body=b'{"quantity":2}'), 409),
        (lambda wish: wish.request(body=b'{"quantity":9}'), 409),
    ],
)
async def test_whole_purchases_are_answered_at_the_door_as_the_lane_would(
    shop: Shop, in_the_lane: list[str], request_of: Request, status: int
) -> None:
    """Without a task; the limit of a buyer is one unit, and five are left."""
    sale = await open_sale(shop, in_the_lane, units=5, units_per_user=1)
    async with wire(shop) as connection:
        at_the_door = await whole(connection, request_of(Wish.of(shop, sale)))
        assert in_the_lane == []
        by_the_lane = await for_the_parser(connection, request_of(Wish.of(shop, sale)))

    assert len(in_the_lane) == 1
    assert at_the_door.status == status
    assert told(at_the_door) == told(by_the_lane)


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda wish: plain(wish).replace(b"Bearer ", b"Bearer x"), 401),
        (lambda wish: wish.request(body=b'{"quantity":0}'), 422),
        (lambda wish: wish.request(body=b"{"), 400),
        (lambda wish: wish.request(body=b'{"quantity":1' + b" " * 20_000 + b"}"), 413),
        (lambda wish: wish.request("Content-Type: text/plain"), 415),
        (lambda wish: wish.request("Prefer: wait=5"), 201),
        (lambda wish: plain(wish).replace(b"key-of-", b"key of "), 400),
    ],
)
async def test_what_is_wrong_or_unusual_is_left_to_the_lane(
    shop: Shop, in_the_lane: list[str], request_of: Request, status: int
) -> None:
    sale = await open_sale(shop, in_the_lane, units=5)
    async with wire(shop) as connection:
        answer = await whole(connection, request_of(Wish.of(shop, sale)))

    assert answer.status == status
    assert len(in_the_lane) == 1


async def sold_out(shop: Shop, sale: Sale) -> None:
    await shop.bought(sale)


async def ended(shop: Shop, sale: Sale) -> None:
    await shop.change(sale, "close")


async def paused(shop: Shop, sale: Sale) -> None:
    await shop.change(sale, "pause")


@pytest.mark.parametrize(("becomes", "code"), [(sold_out, "sold_out"), (ended, "sale_ended"), (paused, "sale_paused")])
async def test_a_sale_that_does_not_sell_says_so_at_the_door(
    shop: Shop, in_the_lane: list[str], becomes: Callable[[Shop, Sale], Awaitable[None]], code: str
) -> None:
    """At once, when the ledger is asked, and later, when it is known by heart."""
    sale = await open_sale(shop, in_the_lane, units=1)
    await becomes(shop, sale)
    await shop.until_told(sale, code)
    in_the_lane.clear()
    async with wire(shop) as connection:
        at_the_door = [await whole(connection, plain(Wish.of(shop, sale))) for _ in range(3)]
        assert in_the_lane == []
        by_the_lane = await for_the_parser(connection, plain(Wish.of(shop, sale)))

    assert [answer.refusal() for answer in at_the_door] == [code] * 3
    assert {*map(str, map(told, at_the_door))} == {str(told(by_the_lane))}


async def test_a_repeat_is_the_same_order_and_a_click_after_a_cancel_is_another_one(
    shop: Shop, in_the_lane: list[str]
) -> None:
    """The door has sold it; what came of it since is for the lane, which asks the ledger again."""
    sale = await open_sale(shop, in_the_lane, units=5)
    wish = Wish.of(shop, sale)
    without_key = plain(wish).replace(b"Idempotency-Key", b"X-Other")
    async with wire(shop) as connection:
        first = await whole(connection, without_key)
        again = await whole(connection, without_key)
        assert (first.status, again.status) == (202, 200)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json()["id"] == first.json()["id"]

        order = f"/v1/orders/{first.json()['id']}"
        await shop.drained(sale)
        client = await shop.client()
        cancelled = await client.post(f"{order}/cancel", headers=shop.headers(wish.user_id))
        assert cancelled.status_code == 200

        async def another() -> bool:
            answer = await whole(connection, without_key)
            return answer.status in {200, 202} and answer.json()["id"] != first.json()["id"]

        await wait_until(another, reason="a click after a cancel is a new order")
    assert in_the_lane


async def test_a_ledger_that_cannot_speak_is_answered_for_by_postgres(shop: Shop, in_the_lane: list[str]) -> None:
    """The door has asked it in vain; the purchase goes through everything behind, and is counted once."""
    sale = await open_sale(shop, in_the_lane, units=5)
    wish = Wish.of(shop, sale)
    await shop.redis.delete(ledger_keys(sale.id, 1).sale)
    async with wire(shop) as connection:
        answer = await whole(connection, wish.request(body=BODY))

    assert (answer.status, answer.refusal()) == (503, "not_ready")
    assert len(in_the_lane) == 1


async def test_an_error_that_nobody_foresaw_at_the_door_is_made_good_by_the_lane(
    shop: Shop, in_the_lane: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is made, so it is a repeat there; the others of the same batch are answered."""
    sale = await open_sale(shop, in_the_lane, units=5)
    write = accepted_body
    unlucky = Wish.of(shop, sale)

    def written(reservation: Reservation, loaded: LoadedSale, user_id: str, **values: Any) -> bytes:
        if user_id == unlucky.user_id:
            raise RuntimeError("nobody has thought of this")
        return write(reservation, loaded, user_id, **values)

    monkeypatch.setattr(direct, "accepted_body", written)
    async with wires(shop, 4) as connections:
        wanted = [unlucky, *(Wish.of(shop, sale) for _ in range(3))]
        for wish, connection in zip(wanted, connections, strict=True):
            connection.send(plain(wish))
        answers = [await connection.answer() for connection in connections]

    assert [answer.status for answer in answers] == [200, 202, 202, 202]
    assert len(in_the_lane) == 1
