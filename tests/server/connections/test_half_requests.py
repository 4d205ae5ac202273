"""Orders that need no body, with a body that fails: told 4xx, nothing was done; done, it is not told 4xx."""

import asyncio

import pytest
from sqlalchemy import text

from tests.harness import Shop
from tests.processes import lasting
from tests.server.connections.conftest import CUT_SECONDS_MAX, REQUEST_SECONDS_MAX
from tests.server.connections.wishes import Wish
from tests.server.raw import Wire, exchange, wire

# How long a request that was refused could still be at work behind its refusal.
LATER_SECONDS = 0.2


@pytest.fixture
async def bought(shop: Shop) -> tuple[Wish, str]:
    """A buyer and the order that is reserved and recorded for them."""
    sale = await shop.open_sale(units=5)
    wish = Wish.of(shop, sale)
    order = wish.won(await exchange(shop, wish.request()))
    await shop.drained(sale)
    return wish, order


def cancel(wish: Wish, order: str, field: str, body: bytes) -> bytes:
    """The order's cancellation, with a body that nobody asks for."""
    token = wish.shop.token(wish.user_id)
    head = f"POST /v1/orders/{order}/cancel HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n{field}\r\n\r\n"
    return head.encode() + body


async def status_later(wish: Wish, order: str) -> str:
    """The order's status, when whatever was at work for it has had time to end."""
    await lasting(LATER_SECONDS)
    answer = await (await wish.shop.client()).get(f"/v1/orders/{order}", headers=wish.shop.headers(wish.user_id))
    status: str = answer.json()["status"]
    return status


async def told(connection: Wire) -> int | None:
    """The status of the answer; None if the connection ended without one, which says that nothing is known."""
    try:
        return (await connection.answer(within=CUT_SECONDS_MAX)).status
    except EOFError:
        return None


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("Transfer-Encoding: chunked", b"xyz\r\n"),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n0\r\nno colon\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n0\r\n" + b"X: x\r\n" * 10_000),
    ],
    ids=["a bad chunk", "a bad trailer", "endless trailers"],
)
async def test_a_cancellation_that_is_refused_for_its_body_was_not_made(
    shop: Shop, bought: tuple[Wish, str], field: str, body: bytes
) -> None:
    wish, order = bought
    async with wire(shop) as connection:
        connection.send(cancel(wish, order, field, body))
        status = await told(connection)

    assert (status, await status_later(wish, order)) in {
        *((refusal, "reserved") for refusal in (400, 408, 431)),
        *((done, "cancelled") for done in (200, None)),
    }


async def test_a_cancellation_that_is_refused_because_its_body_does_not_come_was_not_made(
    shop: Shop, bought: tuple[Wish, str]
) -> None:
    """Somebody else has the order's row for a while, so that it is still at work when the time is over."""
    wish, order = bought
    async with wire(shop) as connection:
        async with shop.database.transaction() as session:
            await session.execute(text("SELECT 1 FROM orders WHERE id = :id FOR UPDATE"), {"id": order})
            connection.send(cancel(wish, order, "Content-Length: 5", b""))
            telling = asyncio.create_task(told(connection))
            await lasting(REQUEST_SECONDS_MAX * 1.5)
        status = await telling

    assert (status, await status_later(wish, order)) in {(408, "reserved"), (200, "cancelled"), (None, "cancelled")}
