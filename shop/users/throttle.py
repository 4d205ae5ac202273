"""How often one address and one account may register or sign in, so that hashing cannot be used to stop the shop."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

import redis.asyncio as aioredis
from fastapi import Request

from shop.rate_limit import RateLimiter, limit, rate_limiter
from shop.settings import Settings

SECONDS_PER_MINUTE = 60
# The smallest network that one customer gets; within it he has as many addresses as he likes.
IPV6_PREFIX_BITS = 64


@dataclass(frozen=True)
class SignInLimiters:
    """Registering and signing in share both limits, because both cost a hash."""

    address: RateLimiter
    account: RateLimiter


def sign_in_limiters(redis: aioredis.Redis, settings: Settings) -> SignInLimiters:
    """The two limiters, shared by all processes through `redis`."""
    return SignInLimiters(
        address=_per_minute(redis, settings, "sign_in_address", settings.sign_in_per_minute_per_address),
        account=_per_minute(redis, settings, "sign_in_account", settings.sign_in_per_minute_per_account),
    )


async def throttle(request: Request, *, email: str) -> None:
    """Count one attempt from this address for this account. Raises RateLimited."""
    limiters: SignInLimiters = request.app.state.limiters
    await limit(limiters.address, address_key(request.client.host if request.client else "local"))
    await limit(limiters.account, email)


def address_key(host: str) -> str:
    """What stands for an address: itself, or its network if it is of version 6."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), IPV6_PREFIX_BITS), strict=False).network_address)
    return str(address)


def _per_minute(redis: aioredis.Redis, settings: Settings, name: str, attempts: int) -> RateLimiter:
    return rate_limiter(redis, settings, name=name, rate_per_second=attempts / SECONDS_PER_MINUTE, burst=attempts)
