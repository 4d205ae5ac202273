"""The shop sends to public addresses over TLS only, and to the very address that it has looked at."""

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from shop.database import Database
from shop.notifications.addresses import AddressRefused, check_url, checked, is_public
from shop.settings import Settings
from tests.notifications.outbox import deliver, make_webhook, reserved, the_delivery
from tests.notifications.receivers import always, certificate, merchant
from tests.processes import copy_of

NAME = "merchant.example"

NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - nobody listens here
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]
REFUSED_URLS = [
    "http://1.1.1.1/",
    "ftp://1.1.1.1/",
    "file:///etc/passwd",
    "//1.1.1.1/",
    "1.1.1.1",
    "https://",
    "https:///path",
    "https://1.1.1.1:0/",
    "https://1.1.1.1:99999/",
    "https://user@1.1.1.1/",
    "https://user:word@1.1.1.1/",
    "https://1.1.1.1@127.0.0.1/",
    "https://1.1.1.1/#part",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://127.1/",
    "https://0/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://[::1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[fe80::1%25eth0]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://no-such-name.invalid/",
    "https://exa mple.com/",
    "https://1.1.1.1\r\nX-Header: 1/",
    "https://1.1.1.1/" + "a" * 2_000,
    "https://\ud800/",
    "https://" + "a" * 300 + ".example/",
]


@pytest.fixture
def near(settings: Settings) -> Settings:
    return copy_of(settings, webhook_private_addresses_allowed=True, delivery_timeout_seconds=5.0)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_special_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_beside_the_special_ones_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("url", REFUSED_URLS)
async def test_a_url_that_leads_elsewhere_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(AddressRefused):
        await check_url(url, private_allowed=False, timeout=5)


@pytest.mark.parametrize("url", ["https://1.1.1.1/hooks?a=1", "https://[2606:4700:4700::1111]:8443/x"])
async def test_a_url_at_a_public_address_is_taken(url: str) -> None:
    assert await check_url(url, private_allowed=False, timeout=5) == url


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "https://[::1]/"])
async def test_private_addresses_and_plain_http_are_taken_where_the_setting_allows_it(url: str) -> None:
    assert await check_url(url, private_allowed=True, timeout=5) == url


@pytest.mark.parametrize("found", [["1.1.1.1", "10.0.0.1"], ["10.0.0.1", "1.1.1.1"], [], ["nonsense"]])
def test_each_address_of_a_name_must_be_public(found: Sequence[str]) -> None:
    """One that is not would be the one that is connected to, one day."""
    with pytest.raises(AddressRefused):
        checked(found, private_allowed=False)


async def test_a_name_that_leads_elsewhere_by_the_time_of_the_delivery_is_not_followed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """The address is looked at again for each connection: a check when the webhook is made would be too early."""
    server, client = certificate(NAME, tmp_path)
    async with merchant(tls=server) as receiver:
        await make_webhook(database, receiver.url(NAME))
        await reserved(database, settings)
        await deliver(database, settings, resolve=always("127.0.0.1"), ssl_context=client)

    delivery = await the_delivery(database)
    assert receiver.connections == 0
    assert delivery.last_error == "refused: Its name has an address that is not public"
    assert delivery.dead_at is None


async def test_the_connection_goes_to_the_address_that_was_looked_at(database: Database, near: Settings) -> None:
    """Asked a second time, the name server would lead elsewhere."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async with merchant() as receiver:
        await make_webhook(database, receiver.url("rebinding.example"))
        await reserved(database, near)
        await deliver(database, near, resolve=rebinding)

    assert asked == ["rebinding.example"]
    assert [request.headers["host"] for request in receiver.requests] == [f"rebinding.example:{receiver.port}"]


async def test_the_next_address_of_a_name_is_tried_when_one_does_not_answer(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        await make_webhook(database, receiver.url(NAME))
        await reserved(database, near)
        await deliver(database, near, resolve=always("127.0.0.2", "127.0.0.1"))

    assert len(receiver.requests) == 1


async def test_tls_is_spoken_with_the_name_and_its_certificate_is_checked(
    database: Database, near: Settings, tmp_path: Path
) -> None:
    """The address is connected to, but the name is who must answer."""
    server, client = certificate(NAME, tmp_path)
    async with merchant(tls=server) as receiver:
        await make_webhook(database, receiver.url(NAME))
        await reserved(database, near)
        await deliver(database, near, resolve=always("127.0.0.1"), ssl_context=client)

    [request] = receiver.requests
    assert receiver.names == [NAME]
    assert request.headers["host"] == f"{NAME}:{receiver.port}"


async def test_whoever_has_a_certificate_for_another_name_is_not_told(
    database: Database, near: Settings, tmp_path: Path
) -> None:
    server, client = certificate("somebody-else.example", tmp_path)
    async with merchant(tls=server) as receiver:
        await make_webhook(database, receiver.url(NAME))
        await reserved(database, near)
        await deliver(database, near, resolve=always("127.0.0.1"), ssl_context=client)

    assert receiver.requests == []
    assert "certificate" in str((await the_delivery(database)).last_error)
