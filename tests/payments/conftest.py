"""A shop that is paid at a sandbox provider of its own, both on real sockets; its worker asks the provider too."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from shop.embedded import EmbeddedServers
from shop.sandbox.server import SandboxPlan
from tests.conftest import settings_of
from tests.harness import Shop, running_shop
from tests.payments.sandbox.running import serving

REDIS_NUMBER = 2  # the numbers of sales are those of the clean and the live shop


@dataclass
class Paying:
    """The shop, its provider's address, and a shopper at the payment page."""

    shop: Shop
    provider_url: str
    provider: httpx.AsyncClient

    async def behave(self, **shares: float) -> None:
        """Let the provider have these faults and no others."""
        answer = await self.provider.put("/sandbox/behaviour", json=shares)
        assert answer.status_code == 200, answer.text

    async def webhooks(self, *, on: bool) -> None:
        """Let the provider send webhooks to the shop, or lose every one."""
        url = f"{self.shop.base_url}/v1/payments/webhook" if on else None
        answer = await self.provider.put("/sandbox/webhook", json={"url": url})
        assert answer.status_code == 200, answer.text

    async def start(
        self, order_id: object, user_id: str, *, key: str | None = "pay", body: object = None
    ) -> httpx.Response:
        """Ask the shop where to pay."""
        client = await self.shop.client()
        headers = self.shop.headers(user_id, key=key)
        return await client.post(f"/v1/orders/{order_id}/payment", headers=headers, json=body)

    def provider_headers(self) -> dict[str, str]:
        """What the shop shows the provider."""
        return {"Authorization": f"Bearer {self.shop.settings.payment_api_key.get_secret_value()}"}

    async def attempt(self, pay_url: str, outcome: str = "pay") -> httpx.Response:
        """Press a button of the payment page."""
        intent_id = pay_url.rsplit("/", 1)[1]
        return await self.provider.post(f"/v1/intents/{intent_id}/attempts", json={"outcome": outcome})

    async def intent(self, order_id: object) -> dict[str, Any]:
        """The intent of this order at the provider."""
        listed = await self.provider.get("/v1/events", params={"limit": 500}, headers=self.provider_headers())
        assert listed.status_code == 200, listed.text
        found: list[dict[str, Any]] = [each["data"] for each in listed.json()["data"]]
        return [each for each in found if each["order_id"] == str(order_id)][-1]


@pytest.fixture(scope="session")
async def paying_shop(servers: EmbeddedServers, template_database: str) -> AsyncIterator[Paying]:
    """The running shop and its running provider."""
    settings = settings_of(servers, database="paying", redis_number=REDIS_NUMBER, template=template_database)
    async with serving(settings, SandboxPlan("127.0.0.1", 0)) as provider:
        url = provider.books.public_url
        settings = settings.model_copy(update={"payment_provider_url": url, "provider_pause_seconds": 0.2})
        settings = settings.model_copy(update={"return_origins": ["https://shop.example"]})
        async with running_shop(settings) as shop, httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield Paying(shop, url, client)


@pytest.fixture
async def paying(paying_shop: Paying) -> Paying:
    """The shop with a provider that works."""
    await paying_shop.behave()
    await paying_shop.webhooks(on=True)
    return paying_shop
