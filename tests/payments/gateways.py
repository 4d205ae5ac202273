"""Gateways to a provider that replies as a test tells it to, and what is asked of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from shop.payments.contract import Intent, ProviderEvent
from shop.payments.gateway import Gateway, HttpGateway
from tests.payments.raw import RawProvider, Reply, raw_provider
from tests.payments.sandbox.running import settings_of_a_shop

ORDER = UUID("018f2f6e-0000-8000-8000-000000000001")


@asynccontextmanager
async def gateway_to(url: str, **settings: Any) -> AsyncIterator[HttpGateway]:
    """A gateway to the provider there."""
    gateway = HttpGateway(settings_of_a_shop(url, **settings))
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def asking(*replies: Reply, **settings: Any) -> AsyncIterator[tuple[RawProvider, HttpGateway]]:
    """A gateway to a provider that replies in this way."""
    async with raw_provider(*replies) as provider, gateway_to(provider.url, **settings) as gateway:
        yield provider, gateway


async def create(gateway: Gateway, order_id: UUID = ORDER, amount_minor: int = 990) -> Intent:
    return await gateway.create(order_id=order_id, amount_minor=amount_minor, currency="EUR")


async def read_events(gateway: Gateway, *, after: int, limit: int) -> list[ProviderEvent]:
    """The events that follow, all of which can be read."""
    return [each for each in await gateway.events(after=after, limit=limit) if isinstance(each, ProviderEvent)]
