"""Where webhooks may be sent: public addresses over TLS, and to exactly the address that was looked at.

A URL comes from outside, and the shop is in a network that its author cannot reach. A name may resolve to one address
when it is checked and to another when it is connected to, so `CheckedBackend` resolves once for each connection, looks
at what came, and connects to that. Nothing else opens a connection for webhooks.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import httpx

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

URL_LENGTH_MAX = 2_000
ADDRESSES_MAX = 4
RESOLVER_THREADS = 4

# IANA's registries of special addresses, and what clouds answer at beside them. IPv4 is public unless it is here.
SPECIAL_IPV4 = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, seen from a machine there
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Of IPv6 only this is public, and not even all of it: the rest is local, multicast, or an IPv4 address in disguise
# (::ffff:0:0/96, NAT64's 64:ff9b::/96) that leads wherever the network between takes it.
PUBLIC_IPV6 = ip_network("2000::/3")
SPECIAL_IPV6 = tuple(
    ip_network(network)
    for network in (
        "2001::/23",  # with Teredo's 2001::/32
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)

# Looking up a name blocks a thread for as long as its server likes; these are nobody else's.
_threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")


class AddressRefused(Exception):
    """The shop does not send there; the message says why."""


def parse_url(url: str, *, private_allowed: bool) -> httpx.URL:
    """The URL in its one form. Raises AddressRefused unless it is an https URL without a user or a fragment."""
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused("It is not a URL") from error
    if parsed.scheme != "https" and not (private_allowed and parsed.scheme == "http"):
        raise AddressRefused("It must begin with https://")
    if not host or not 0 < port_of(parsed) <= 65_535:
        raise AddressRefused("It names no host")
    if parsed.userinfo or parsed.fragment:
        raise AddressRefused("It must not have a user or a fragment")
    if len(str(parsed)) > URL_LENGTH_MAX:
        raise AddressRefused(f"It must not be longer than {URL_LENGTH_MAX:,} characters")
    return parsed


def port_of(url: httpx.URL) -> int:
    """The port of a URL, or the usual one of its scheme."""
    return url.port if url.port is not None else {"https": 443, "http": 80}.get(url.scheme, 0)


def is_public(address: Address) -> bool:
    """Whether everybody may send there, so that the shop gives nothing away by doing so."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_IPV4)
    return address in PUBLIC_IPV6 and not any(address in network for network in SPECIAL_IPV6)


def checked(found: Iterable[str], *, private_allowed: bool) -> list[Address]:
    """The addresses of one name, of which each must be public. Raises AddressRefused."""
    try:
        addresses = [ip_address(text.partition("%")[0]) for text in found]
    except ValueError as error:
        raise AddressRefused("Its name has an address that is none") from error
    if not addresses:
        raise AddressRefused("Its name has no address")
    if not private_allowed and not all(is_public(address) for address in addresses):
        raise AddressRefused("Its name has an address that is not public")
    return addresses[:ADDRESSES_MAX]


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, or of an address however it is written. Raises AddressRefused."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(
            _threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        )
    except (OSError, UnicodeError) as error:
        raise AddressRefused("Its name cannot be resolved") from error
    return list(dict.fromkeys(str(address[4][0]) for address in found))


async def check_url(url: str, *, private_allowed: bool, timeout: float) -> str:
    """The URL in its one form, when the shop would send there at this moment. Raises AddressRefused."""
    parsed = parse_url(url, private_allowed=private_allowed)
    try:
        async with asyncio.timeout(timeout):
            found = await resolve(parsed.raw_host.decode("ascii").strip("[]"), port_of(parsed))
    except TimeoutError as error:
        raise AddressRefused("Its name cannot be resolved in time") from error
    checked(found, private_allowed=private_allowed)
    return str(parsed)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that were looked at, and to no others.

    TLS and the Host header keep the name of the URL: whoever answers must have a certificate for it.
    """

    def __init__(self, *, private_allowed: bool, resolve: Resolve = resolve) -> None:
        self._private_allowed = private_allowed
        self._resolve = resolve
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address of the name that takes one. Raises AddressRefused."""
        addresses = checked(await self._resolve(host, port), private_allowed=self._private_allowed)
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, timeout, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(addresses[-1], port, timeout, socket_options)

    async def _connect(
        self,
        address: Address,
        port: int,
        timeout: float | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_tcp(str(address), port, timeout=timeout, socket_options=socket_options)

    async def sleep(self, seconds: float) -> None:
        """Part of the interface; nothing here retries by itself."""
        await self._backend.sleep(seconds)
