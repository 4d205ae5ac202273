"""Where a request comes from: addresses as peers and proxies write them, and whose word about a client is believed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix:"
EVERYBODY = "*"
PORT = re.compile(r":[0-9]{1,5}")
MAPPED = IPv6Network("::ffff:0:0/96")
# A wider range than any operator's own network: who trusts it trusts strangers.
IPV4_PREFIX_BITS_MIN, IPV6_PREFIX_BITS_MIN = 8, 7


def parse_address(text: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:567`, `2001:db8::1` or `[2001:db8::1]:567`; None if there is none.

    A mapped address (`::ffff:192.0.2.1`) is the one of version 4 that it stands for; a zone (`%eth0`) is left out.
    """
    host = text.strip()
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket or (port and not PORT.fullmatch(port)):
            return None
    elif host.count(":") == 1:
        host, colon, port = host.partition(":")
        if not PORT.fullmatch(colon + port):
            return None
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def counted_as(host: str, *, ipv6_prefix_bits: int) -> str:
    """What limits count for a client: its address, or its network if that is of version 6.

    One client of version 6 is given a network, within which it has as many addresses as it likes.
    """
    address = parse_address(host)
    if address is None:
        return host
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), ipv6_prefix_bits), strict=False).network_address)
    return str(address)


@dataclass(frozen=True)
class TrustedProxies:
    """Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""

    networks: tuple[Network, ...] = ()
    unix: bool = False
    everybody: bool = False

    @classmethod
    def parse(cls, text: str) -> "TrustedProxies":
        """From addresses and networks, with commas or spaces between them; `unix:` is every peer on a local socket.

        Raises ValueError with the part that is neither.
        """
        parts = text.replace(",", " ").split()
        return cls(
            networks=tuple(_network(part) for part in parts if part not in {UNIX, EVERYBODY}),
            unix=UNIX in parts,
            everybody=EVERYBODY in parts,
        )

    @property
    def too_wide(self) -> str | None:
        """What of it holds strangers too."""
        if self.everybody:
            return EVERYBODY
        for network in self.networks:
            narrowest = IPV4_PREFIX_BITS_MIN if isinstance(network, IPv4Network) else IPV6_PREFIX_BITS_MIN
            if network.prefixlen < narrowest:
                return str(network)
        return None

    def trust(self, address: Address) -> bool:
        """Whether this is a trusted proxy."""
        return self.everybody or any(address in network for network in self.networks)

    def trust_peer(self, host: str | None) -> bool:
        """Whether the other end of a connection is one; None is a local socket."""
        if host is None:
            return self.unix or self.everybody
        address = parse_address(host)
        return address is not None and self.trust(address)

    def client(self, peer: str | None, forwarded_for: Iterable[str]) -> str | None:
        """Who a request is from: the nearest address that is no trusted proxy, or the farthest if all are.

        `forwarded_for` are the values of the request's X-Forwarded-For headers in their order. Each trusted proxy's
        word counts for the one entry that it has added. What cannot be read was not added by a proxy of this shop:
        there the walk ends, with the last address that is certain.
        """
        certain = peer
        if not self.trust_peer(peer):
            return certain
        for entry in reversed(",".join(forwarded_for).split(",")):
            if not entry.strip():
                continue
            address = parse_address(entry)
            if address is None:
                return certain
            certain = str(address)
            if not self.trust(address):
                return certain
        return certain


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        address = parse_address(text)
        if address is None:
            raise ValueError(f"{text!r} is no address, no network and not `unix:`") from None
        return ip_network(address)
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - MAPPED.prefixlen))
    return network
