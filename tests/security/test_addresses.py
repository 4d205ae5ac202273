"""Who is asking is told by the connection, or by a proxy that is trusted; never by the client's own word."""

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from shop.client_addresses import TrustedProxies, counted_as
from shop.settings import Settings
from tests.harness import Shop, new_user_id, running_shop
from tests.processes import copy_of

ATTEMPTS = 3


async def statuses(shop: Shop, forwarded: list[str], header: str = "X-Forwarded-For") -> list[int]:
    """The answers to so many sign-ins, each with a header that says where it is from."""
    client = await shop.client()
    answers = [
        await client.post(
            "/v1/auth/token",
            data={"username": f"{new_user_id()}@example.com", "password": "guess number one"},
            headers={header: address},
        )
        for address in forwarded
    ]
    return [answer.status_code for answer in answers]


def strict(settings: Settings, *, trusted: str) -> Settings:
    """Few sign-ins for each address; `trusted` is whose header is believed."""
    return copy_of(settings, sign_in_per_minute_per_address=ATTEMPTS, trusted_proxies=trusted)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"])
async def test_a_client_cannot_give_itself_another_address(fresh_settings: Settings, header: str) -> None:
    """The tests' own address is not trusted here, so all of these come from one."""
    async with running_shop(strict(fresh_settings, trusted="192.0.2.1"), worker=False) as shop:
        await shop.redis.delete("shop:{rate}:sign_in_address:127.0.0.1")
        found = await statuses(shop, [f"198.51.100.{n}" for n in range(ATTEMPTS + 1)], header)
        await shop.redis.delete("shop:{rate}:sign_in_address:127.0.0.1")

    assert found == [401] * ATTEMPTS + [429]


async def test_of_what_a_trusted_proxy_passes_on_only_its_own_word_counts(fresh_settings: Settings) -> None:
    """The last address is the one that the proxy saw; what stands before it was sent by the client."""
    async with running_shop(strict(fresh_settings, trusted="127.0.0.1"), worker=False) as shop:
        seen, other = "203.0.113.7", "203.0.113.8"
        found = await statuses(shop, [f"198.51.100.{n}, {seen}" for n in range(ATTEMPTS + 1)])
        found += await statuses(shop, [f"{seen}, {other}"])

    assert found == [401] * ATTEMPTS + [429, 401]


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded_for", "client"),
    [
        ("127.0.0.1", "127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", "127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", "192.0.2.9", ["192.0.2.1"], "192.0.2.9"),
        ("127.0.0.1", "::ffff:127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("::ffff:127.0.0.1", "127.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", ["192.0.2.1"], "192.0.2.1"),
        ("::1", "::1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::/8 10.0.0.0/8", "fd00::5", ["192.0.2.1, 10.9.9.9", "fd12::1"], "192.0.2.1"),
        ("10.0.0.0/8,fd00::/8", "10.0.0.1", ["198.51.100.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1:567"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["[2001:db8::1]:9"], "2001:db8::1"),
        ("10.0.0.0/8", "10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1, , "], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1, _hidden, 10.0.0.7"], "10.0.0.7"),
        ("10.0.0.0/8", "10.0.0.1", ["[::1"], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1:http"], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ["0x7f.1"], "10.0.0.1"),
        ("unix:", None, ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", None, ["192.0.2.1"], None),
        ("", "127.0.0.1", ["192.0.2.1"], "127.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_trusted_proxy(
    trusted: str, peer: str | None, forwarded_for: list[str], client: str | None
) -> None:
    """The header is walked from its end; where it cannot be read, the last address that is certain counts."""
    assert TrustedProxies.parse(trusted).client(peer, forwarded_for) == client


@pytest.mark.parametrize(
    ("host", "bits", "key"),
    [
        ("192.0.2.1", 64, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
        ("2001:db8:1:2::9", 56, "2001:db8:1::"),
        ("2001:db8:1:2::9", 128, "2001:db8:1:2::9"),
        ("::ffff:192.0.2.1", 64, "192.0.2.1"),
        ("not an address", 64, "not an address"),
    ],
)
def test_a_client_counts_as_one_address(host: str, bits: int, key: str) -> None:
    """It gets a whole network of version 6, so the network is what is counted."""
    assert counted_as(host, ipv6_prefix_bits=bits) == key


# What production asks for besides.
SAFE: dict[str, Any] = {
    "secret_key": "x" * 32,
    "payment_api_key": "a-key",
    "payment_webhook_secret": "whsec_" + base64.b64encode(b"x" * 32).decode(),
}


def test_production_does_not_trust_everybody() -> None:
    """With `*` any client could be anybody."""
    for trusted in ("*", " * ", "127.0.0.1, *", "0.0.0.0/0", "10.0.0.1,::/0", "0.0.0.0/1", "2000::/3", "::ffff:0:0/96"):
        with pytest.raises(ValidationError, match="SHOP_TRUSTED_PROXIES"):
            Settings(_env_file=None, environment="production", **SAFE, trusted_proxies=trusted)


@pytest.mark.parametrize("trusted", ["proxy.example", "10.0.0.0/33", "127.0.0.1;192.0.2.1", "10.0.0", "[::1"])
def test_proxies_that_are_no_addresses_stop_the_start(trusted: str) -> None:
    """A typing error would let everybody be one address, or anybody be any."""
    with pytest.raises(ValidationError, match="trusted_proxies"):
        Settings(_env_file=None, environment="test", **SAFE, trusted_proxies=trusted)
