"""Requests that are unusual and yet HTTP: each has an ordinary answer, and nobody buys what they did not ask for."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from shop.sales.models import Sale
from shop.settings import Settings
from tests.harness import Shop, running_shop, wait_until
from tests.processes import copy_of
from tests.server.connections.wishes import Wish, ask_again, assert_sold_to, wishes
from tests.server.raw import LIVEZ, exchange, wire


@pytest.fixture(scope="module")
async def sale(served_shop: Shop) -> Sale:
    """A sale with units for all."""
    return await served_shop.open_sale(units=1_000)


async def test_http_1_0_is_answered_and_closed(shop: Shop, sale: Sale) -> None:
    """With a Host and without one; also when the client would rather stay."""
    for host in (b"Host: shop\r\n", b"", b"Connection: keep-alive\r\n"):
        wish = Wish.of(shop, sale)
        async with wire(shop) as connection:
            connection.send(wish.request(line=f"POST {wish.path} HTTP/1.0").replace(b"Host: shop\r\n", host))
            (answer,) = await connection.rest()
        wish.won(answer)
        assert "transfer-encoding" not in answer.headers


async def test_space_around_a_value_is_no_part_of_it(shop: Shop, sale: Sale) -> None:
    """Of two spellings of one idempotency key, the second is a repeat (RFC 9110, section 5.5)."""
    wish = Wish.of(shop, sale)
    first, second = wish.request(), wish.request().replace(wish.key.encode(), b" \t" + wish.key.encode() + b" \t ")

    order = wish.won(await exchange(shop, first))
    assert wish.won(await exchange(shop, second), 200) == order


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "PROPFIND"])
async def test_another_method_on_the_path_of_a_purchase_buys_nothing(shop: Shop, sale: Sale, method: str) -> None:
    """405 that names the right one, without a body to HEAD; and the connection is as good as before."""
    wish, behind = wishes(shop, sale, 2)
    async with wire(shop) as connection:
        connection.send(wish.request(line=f"{method} {wish.path} HTTP/1.1"))
        answer = await connection.answer(method)
        assert (answer.status, answer.headers["allow"]) == (204 if method == "OPTIONS" else 405, "OPTIONS, POST")
        if method == "HEAD":
            assert int(answer.headers["content-length"]) > 0
        elif method != "OPTIONS":
            assert answer.refusal() == "method_not_allowed"
        connection.send(behind.request())
        behind.won(await connection.answer())
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]


TARGETS = {
    "http://shop{path}": 202,
    "http://somebody.else:99{path}": 202,
    "{path}?quantity=9": 202,
    "{path}?": 202,
    "{path}#fragment": 202,
    "{path}?a=%00%ff&b=\xff": None,
    "//{path}": 404,
    "{path}/": None,
    "{path}%00": 404,
    "{path}%2f..": 404,
    "/../..{path}": 404,
    "/%2e%2e{path}": 404,
    "/%ff%fe": 404,
    "/%": 404,
    "/%zz%0d%0aX-Evil:%201": 404,
    "/" + "a/" * 5_000: 404,
    "/" + "%41" * 5_000: 404,
    "*": None,
    "shop:80": None,
    "http://": None,
    "http://[::1": None,
    "https://shop{path}": None,
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target[:40]))
async def test_a_strange_target_is_a_purchase_not_found_or_refused(shop: Shop, sale: Sale, target: str) -> None:
    """Never an error. One that means the purchase in another form is one (RFC 9112, 3.2.2)."""
    wish = Wish.of(shop, sale)

    answer = await exchange(shop, wish.request(line=f"POST {target.replace('{path}', wish.path)} HTTP/1.1"))

    expected = TARGETS[target]
    assert answer.status == expected if expected else answer.status in {202, 307, 400, 404, 405}, answer
    assert "x-evil" not in answer.headers
    again = await ask_again([wish])
    assert [each.outcome for each in again] == ["replayed" if answer.status == 202 else "reserved"]


@pytest.mark.parametrize(
    "request_line",
    ["OPTIONS * HTTP/1.1", "CONNECT shop:80 HTTP/1.1", "CONNECT / HTTP/1.1", "GET http://x/livez HTTP/1.1"],
)
async def test_a_request_to_a_proxy_or_to_the_server_itself_is_answered(shop: Shop, request_line: str) -> None:
    """Or the connection ends; it is neither an error nor a wait for ever."""
    async with wire(shop) as connection:
        connection.send(f"{request_line}\r\nHost: shop\r\n\r\n".encode())
        try:
            answer = await connection.answer(request_line.split()[0])
        except EOFError:
            return
        assert answer.status < 500


UPGRADES = [
    *("Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Connection: Upgrade"),
    *("Upgrade: websocket", "Connection: upgrade, close\r\nUpgrade: nonsense/9"),
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.mark.parametrize("fields", UPGRADES)
async def test_a_purchase_that_asks_for_another_protocol_is_bought_in_this_one_or_refused(
    shop: Shop, sale: Sale, fields: str
) -> None:
    """A server need not upgrade (RFC 9110, 7.8). What follows on the connection is not mistaken for a request."""
    wish, behind = wishes(shop, sale, 2)
    async with wire(shop) as connection:
        connection.send(wish.request(fields))
        answer = await connection.answer()
        if answer.status == 202:
            wish.won(answer)
        else:
            assert 400 <= answer.status < 500
            assert answer.refusal()
        connection.send(behind.request())
        try:
            behind.won(await connection.answer())
        except EOFError:
            assert connection.closed_at is not None

    again = await ask_again([wish])
    assert [each.outcome for each in again] == ["replayed" if answer.status == 202 else "reserved"]


async def test_a_get_that_asks_for_a_websocket_is_answered_as_if_it_had_not(shop: Shop, sale: Sale) -> None:
    """The shop has none, on no path."""
    fields = UPGRADES[-1]
    for path, status in (("/livez", 200), ("/v1/products", 200), ("/nowhere", 404)):
        answer = await exchange(shop, f"GET {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n\r\n".encode(), "GET")
        assert answer.status == status


@pytest.mark.parametrize("twice", ["Authorization: Bearer {token}", "Idempotency-Key: {key}"])
async def test_of_two_tokens_or_two_keys_the_first_counts_on_every_route(shop: Shop, twice: str) -> None:
    """Who buys by one of them can read and repeat by it; the other buys nothing."""
    sale = await shop.open_sale(units=10)
    first, second = wishes(shop, sale, 2)
    field = twice.format(token=shop.token(second.user_id), key=second.key)

    bought = first.won(await exchange(shop, first.request(field)))
    again = first.won(await exchange(shop, first.request()), 200)
    head = f"GET /v1/orders/{bought} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {shop.token(first.user_id)}\r\n"
    read = await exchange(shop, f"{head}{field}\r\n\r\n".encode(), "GET")

    assert (again, read.status) == (bought, 200)
    await assert_sold_to(shop, sale, [bought])


async def test_hundreds_of_authorizations_are_refused_or_one_of_them_counts(shop: Shop, sale: Sale) -> None:
    wish = Wish.of(shop, sale)
    fields = [f"Authorization: Bearer {number}" for number in range(500)]

    answer = await exchange(shop, wish.request(*fields))

    assert (answer.status, answer.refusal()) in {(401, "unauthorized"), (431, "head_too_large")}
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]


async def test_empty_lines_before_a_request_are_ignored(shop: Shop, sale: Sale) -> None:
    """Some old clients send them (RFC 9112, 2.2)."""
    first, second = wishes(shop, sale, 2)
    async with wire(shop) as connection:
        connection.send(b"\r\n\r\n" + first.request() + b"\r\n" + second.request())
        first.won(await connection.answer())
        second.won(await connection.answer())


async def test_a_client_that_sends_nothing_and_hangs_up_is_no_trouble(shop: Shop) -> None:
    """As port scanners and health checks of load balancers do."""
    for leave in ("end", "reset"):
        async with wire(shop) as connection:
            getattr(connection, leave)()
            await connection.until_closed()
    async with asyncio.timeout(1):
        assert (await exchange(shop, LIVEZ)).status == 200


async def test_what_nobody_foresaw_is_a_problem_with_the_id_of_its_request(
    live_shop: Shop, live_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it the error is found in the log; it is counted as what it is."""
    async with running_shop(copy_of(live_settings), worker=False) as shop:
        sale = await live_shop.open_sale()
        await shop.until_loaded(sale)
        monkeypatch.setattr("shop.seckill.lane.purchase", None)
        before = REGISTRY.get_sample_value("shop_purchases_total", {"outcome": "internal_error"}) or 0.0

        answer = await exchange(shop, Wish.of(shop, sale).request("Prefer: wait=1"))

        assert (answer.status, answer.refusal()) == (500, "internal_error")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]

        async def counted() -> bool:
            found = REGISTRY.get_sample_value("shop_purchases_total", {"outcome": "internal_error"})
            return found == before + 1

        await wait_until(counted, reason="it is counted")
