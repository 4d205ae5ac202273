"""Behind a TLS terminator and nginx each client is still itself, and nobody is who they only say they are."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness import Shop, new_user_id, running_shop
from tests.processes import copy_of
from tests.server.nginx import TERMINATOR, Edge, edge, needs_nginx, trust

ATTEMPTS = 2
SHOPPER = "127.0.7.1"
PROXY_OF_A_PROXY = "127.0.8.1"
COUNTERS = "shop:{rate}:sign_in_address:"

pytestmark = needs_nginx


@pytest.fixture(scope="module")
async def behind(live_shop: Shop) -> AsyncIterator[Shop]:
    """A second API of the running shop; it trusts the nginx before it, and lets each address sign in a few times."""
    settings = copy_of(live_shop.settings, sign_in_per_minute_per_address=ATTEMPTS, trusted_proxies="127.0.0.1")
    async with running_shop(settings, worker=False) as shop:
        yield shop


@pytest.fixture(scope="module")
async def front(behind: Shop, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The edge of that shop, which believes the TLS terminator."""
    port = urlsplit(behind.base_url).port or 0
    async with edge(
        tmp_path_factory.mktemp("edge"), apis=[port], trusted=f"{TERMINATOR}, {PROXY_OF_A_PROXY}/32 fd00::/8"
    ) as found:
        yield found


async def guesses(client: httpx.AsyncClient, count: int, **headers: str) -> list[int]:
    """The answers to so many wrong passwords."""
    async with client:
        return [
            (
                await client.post(
                    "/v1/auth/token",
                    data={"username": f"{new_user_id()}@example.com", "password": "guess number one"},
                    headers={name: value.format(n=n) for name, value in headers.items()},
                )
            ).status_code
            for n in range(count)
        ]


async def counted(behind: Shop) -> set[str]:
    """The addresses that the shop has counted."""
    return {key.decode().removeprefix(COUNTERS) for key in await behind.redis.keys(COUNTERS + "*")}


async def test_each_client_behind_a_tls_terminator_has_its_own_sign_in_limit(behind: Shop, front: Edge) -> None:
    addresses = [f"127.0.7.{n}" for n in range(1, 4)]

    found = await asyncio.gather(
        *(guesses(front.client(address=address, tls=True), ATTEMPTS + 1) for address in addresses)
    )

    assert found == [[401] * ATTEMPTS + [429]] * len(addresses)
    assert set(addresses) <= await counted(behind)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_client_that_forges_where_it_comes_from_is_not_believed(behind: Shop, front: Edge, tls: bool) -> None:
    """Neither through the terminator nor past it, with one address or a list that ends in a proxy's."""
    forgeries = ["198.51.100.{n}", f"198.51.100.{{n}}, {TERMINATOR}", "unix:", ""]
    addresses = [f"127.0.{5 + tls}.{n}" for n in range(1, len(forgeries) + 1)]
    for address, forged in zip(addresses, forgeries, strict=True):
        found = await guesses(front.client(address=address, tls=tls), ATTEMPTS + 1, **{"X-Forwarded-For": forged})
        assert found == [401] * ATTEMPTS + [429], forged

    seen = await counted(behind)
    assert set(addresses) <= seen
    assert not [address for address in seen if address.startswith(("198.51.100.", TERMINATOR))]


async def test_a_client_of_ipv6_counts_by_its_network_through_two_proxies(behind: Shop, front: Edge) -> None:
    """A proxy before the terminator names an address of version 6, each time another one of the same network."""
    found = await guesses(
        front.client(address=PROXY_OF_A_PROXY, tls=True), ATTEMPTS + 1, **{"X-Forwarded-For": "2001:db8:1:2::{n}"}
    )

    assert found == [401] * ATTEMPTS + [429]
    assert "2001:db8:1:2::" in await counted(behind)


async def test_a_mapped_address_is_the_one_that_it_stands_for(behind: Shop, front: Edge) -> None:
    found = await guesses(
        front.client(address=PROXY_OF_A_PROXY, tls=True), 1, **{"X-Forwarded-For": "::ffff:192.0.2.7"}
    )
    found += await guesses(
        front.client(address=PROXY_OF_A_PROXY, tls=True), ATTEMPTS, **{"X-Forwarded-For": "192.0.2.7:4711"}
    )

    assert found == [401] * ATTEMPTS + [429]
    assert "192.0.2.7" in await counted(behind)


async def test_nginx_answers_over_ipv6(front: Edge) -> None:
    async with front.client(ipv6=True) as client:
        assert (await client.get("/livez")).status_code == 200


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An API that answers with the head of the request."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
    writer.close()


@pytest.mark.parametrize(
    ("address", "tls", "said", "scheme"),
    [
        (SHOPPER, True, None, "https"),
        (SHOPPER, True, "http", "https"),
        (SHOPPER, False, None, "http"),
        (SHOPPER, False, "https", "http"),
        (PROXY_OF_A_PROXY, False, "https", "https"),
        (PROXY_OF_A_PROXY, False, "HTTPS", "https"),
        (PROXY_OF_A_PROXY, False, "javascript", "http"),
    ],
)
async def test_the_scheme_is_the_one_that_the_client_used(
    tmp_path: Path, address: str, tls: bool, said: str | None, scheme: str
) -> None:
    """A trusted proxy says so; what anybody else says is replaced."""
    api = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = api.sockets[0].getsockname()[1]
    headers = {"X-Forwarded-For": "192.0.2.1"} | ({} if said is None else {"X-Forwarded-Proto": said})
    async with (
        edge(tmp_path, apis=[port], trusted=f"{TERMINATOR},{PROXY_OF_A_PROXY}") as front,
        front.client(address=address, tls=tls) as client,
    ):
        answer = await client.get("/", headers=headers)
    api.close()
    passed = dict(line.split(": ", 1) for line in answer.text.lower().splitlines() if ": " in line)

    assert passed["x-forwarded-proto"] == scheme
    assert passed["x-forwarded-for"] == ("192.0.2.1" if address == PROXY_OF_A_PROXY else address)


@pytest.mark.parametrize("wrong", ["*", "10.0.0.0/8; } evil {", "$host", "/etc/passwd", "proxy.example"])
def test_nginx_does_not_start_with_proxies_that_are_no_addresses(tmp_path: Path, wrong: str) -> None:
    said = trust(tmp_path, wrong)

    assert said.returncode == 1
    assert "SHOP_TRUSTED_PROXIES" in said.stderr
