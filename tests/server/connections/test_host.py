"""A request says once, and in a form that can be one, which host it is for."""

import pytest

from tests.harness import Shop
from tests.server.connections.wishes import Wish, assert_sold_to
from tests.server.raw import exchange

HOSTS = [b"shop", b"shop.example:8000", b"127.0.0.1:8000", b"[::1]:8000", b"[2001:db8::1]", b"shop.example:", b"a_b"]
MALFORMED = [
    b"",
    b"shop example",
    b"shop/evil",
    b"shop@evil",
    b"user@shop",
    b"[::1",
    b"shop:80:80",
    b"shop:http",
    b"a,b",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_is_taken_as_it_is(shop: Shop, host: bytes) -> None:
    answer = await exchange(shop, b"GET /livez HTTP/1.1\r\nHost: %b\r\n\r\n" % host)

    assert answer.status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: shop\r\nHost: shop\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: shop\r\nHost: evil.example\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: shop\r\nX-A: b\r\nhOST: shop\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: shop\r\nHost: evil.example\r\n\r\n",
        b"GET http://shop/livez HTTP/1.1\r\n\r\n",
        b"GET http:///livez HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET http://user@shop/livez HTTP/1.1\r\nHost: shop\r\n\r\n",
        b"GET ftp://shop/livez HTTP/1.1\r\nHost: shop\r\n\r\n",
        *(b"GET /livez HTTP/1.1\r\nHost: %b\r\n\r\n" % host for host in MALFORMED),
    ],
)
async def test_a_request_without_one_good_host_is_400(shop: Shop, request_bytes: bytes) -> None:
    answer = await exchange(shop, request_bytes)

    assert (answer.status, answer.refusal()) == (400, "bad_request")
    assert answer.closes


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nHost: shop\r\n\r\n",
        b"GET http://another.example/livez HTTP/1.1\r\nHost: shop\r\n\r\n",
    ],
)
async def test_the_elder_need_none_and_a_whole_url_may_name_another(shop: Shop, request_bytes: bytes) -> None:
    assert (await exchange(shop, request_bytes)).status == 200


async def test_a_purchase_without_one_host_is_refused_and_buys_nothing(shop: Shop) -> None:
    sale = await shop.open_sale(units=5)
    lines = Wish.of(shop, sale).request().split(b"\r\n")
    host = next(line for line in lines if line.lower().startswith(b"host:"))
    missing = b"\r\n".join(line for line in lines if line is not host)
    twice = b"\r\n".join([lines[0], host, *lines[1:]])

    for request in (missing, twice):
        assert (await exchange(shop, request)).refusal() == "bad_request"
    await assert_sold_to(shop, sale, [])
