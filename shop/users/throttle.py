"""How often one address and one account may register or sign in, so that hashing cannot be used to stop the shop."""

from dataclasses import dataclass

import redis.asyncio as aioredis
from fastapi import Request

from shop.app_keys import AppKey
from shop.client_addresses import counted_as
from shop.rate_limit import RateLimiter, limit, rate_limiter
from shop.settings import Settings

SECONDS_PER_MINUTE = 60


@dataclass(frozen=True)
class SignInLimiters:
    """Registering and signing in share both limits, because both cost a hash."""

    address: RateLimiter
    account: RateLimiter
    ipv6_prefix_bits: int


SIGN_IN_LIMITERS = AppKey[SignInLimiters]("sign_in_limiters")


def sign_in_limiters(redis: aioredis.Redis, settings: Settings) -> SignInLimiters:
    """The two limiters, shared by all processes through `redis`."""
    return SignInLimiters(
        address=_per_minute(redis, settings, "sign_in_address", settings.sign_in_per_minute_per_address),
        account=_per_minute(redis, settings, "sign_in_account", settings.sign_in_per_minute_per_account),
        ipv6_prefix_bits=settings.ipv6_client_prefix_bits,
    )


async def throttle(request: Request, *, email: str) -> None:
    """Count one attempt from this address for this account. Raises RateLimited."""
    limiters = SIGN_IN_LIMITERS.of(request)
    host = request.client.host if request.client else "local"
    await limit(limiters.address, counted_as(host, ipv6_prefix_bits=limiters.ipv6_prefix_bits))
    await limit(limiters.account, email)


def _per_minute(redis: aioredis.Redis, settings: Settings, name: str, attempts: int) -> RateLimiter:
    return rate_limiter(redis, settings, name=name, rate_per_second=attempts / SECONDS_PER_MINUTE, burst=attempts)
