"""A sandbox in this process on a real socket, a shop's end to hear its webhooks, and a client of both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from shop.payments.contract import ProviderEvent
from shop.payments.webhook_signature import parse_webhook
from shop.sandbox.behaviour import Behaviour
from shop.sandbox.provider import Provider
from shop.sandbox.server import SandboxPlan, listen, open_books, server
from shop.settings import Settings
from tests.harness import wait_until

HOST = "127.0.0.1"
HEAD_END = b"\r\n\r\n"


def settings_of_a_shop(url: str = "http://127.0.0.1:1", **values: Any) -> Settings:
    """The settings of a shop whose payment provider is there, and that has little patience."""
    patience: dict[str, Any] = {"payment_timeout_seconds": 2.0, "payment_deadline_seconds": 5.0}
    plain = {**patience, **values}
    return Settings(_env_file=None, environment="development", payment_provider_url=url, **plain)


@dataclass
class Sandbox:
    """A running sandbox, used as a shop and its shoppers would."""

    url: str
    client: httpx.AsyncClient
    api_key: str

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    async def create(self, *, key: str = "a-key", order_id: str = "an-order", amount_minor: int = 990) -> Any:
        """The intent of this key, which must be made or found."""
        answer = await self.ask("POST", "/intents", key=key, body=intent_wish(order_id, amount_minor))
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    async def paid(self, **wish: Any) -> Any:
        """An intent that was paid."""
        intent = await self.create(**wish)
        answer = await self.attempt(intent["id"], "pay")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ask(self, method: str, path: str, *, key: str | None = None, body: object = None) -> httpx.Response:
        """One request of the API, with the key of the shop."""
        headers = self._headers if key is None else {**self._headers, "Idempotency-Key": key}
        return await self.client.request(method, f"/v1{path}", headers=headers, json=body)

    async def attempt(self, intent_id: str, outcome: str) -> httpx.Response:
        """What a shopper does, who has no key."""
        return await self.client.post(f"/v1/intents/{intent_id}/attempts", json={"outcome": outcome})

    async def refund(self, intent_id: str, amount_minor: int, *, key: str = "a-refund") -> httpx.Response:
        return await self.ask("POST", f"/intents/{intent_id}/refunds", key=key, body={"amount_minor": amount_minor})

    async def events(self, *, after: int = 0, limit: int = 500) -> Any:
        """The list of events, as JSON."""
        return (await self.ask("GET", f"/events?after={after}&limit={limit}")).json()

    async def behave(self, **faults: Any) -> None:
        """Have these faults from now on, and no others."""
        answer = await self.client.put("/sandbox/behaviour", json=faults)
        assert answer.status_code == 200, answer.text

    async def summary(self) -> Any:
        return (await self.client.get("/sandbox/summary")).json()


def intent_wish(order_id: str = "an-order", amount_minor: int = 990) -> dict[str, object]:
    """The body of a request for an intent."""
    return {"order_id": order_id, "amount_minor": amount_minor, "currency": "EUR"}


@asynccontextmanager
async def running_sandbox(
    settings: Settings | None = None, *, webhook_url: str | None = None, data: Path | None = None, **faults: Any
) -> AsyncIterator[Sandbox]:
    """A sandbox with the API key and the webhook secret of these settings, at a port of its own."""
    settings = settings or settings_of_a_shop()
    plan = SandboxPlan(HOST, 0, webhook_url=webhook_url, data=data, behaviour=Behaviour(**faults))
    async with serving(settings, plan) as provider, sandbox_at(provider.books.public_url, settings) as sandbox:
        yield sandbox


@asynccontextmanager
async def serving(settings: Settings, plan: SandboxPlan) -> AsyncIterator[Provider]:
    """A provider that is served in this process."""
    listener = listen(plan)
    with closing(open_books(plan, listener)) as books:
        provider = Provider(books, plan.behaviour, webhook_url=plan.webhook_url)
        running = server(settings, provider)
        task = asyncio.create_task(running._serve([listener]))
        try:
            yield provider
        finally:
            running.should_exit = True
            await task


@asynccontextmanager
async def sandbox_at(url: str, settings: Settings) -> AsyncIterator[Sandbox]:
    """A client of a sandbox that runs, or is about to, at this address."""
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield Sandbox(url, client, settings.payment_api_key.get_secret_value())


@dataclass
class Receiver:
    """A shop's end that checks and keeps the webhooks it gets; the first ones are answered as `answers` says."""

    settings: Settings
    url: str = ""
    answers: list[int] = field(default_factory=list)
    events: list[ProviderEvent] = field(default_factory=list)
    tries: int = 0

    @property
    def types(self) -> list[str]:
        """What it was told, in the order in which it came."""
        return [event.type.removeprefix("payment.") for event in self.events]

    async def until_told(self, count: int) -> None:
        """Return when so many webhooks were taken."""

        async def told() -> bool:
            return len(self.events) >= count

        await wait_until(told, reason=f"{count} webhooks came")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear one connection to its end."""
        with closing(writer):
            while request := await read_request(reader):
                headers, body = request
                self.tries += 1
                status = self.answers.pop(0) if self.answers else 204
                if status == 204:
                    self.events.append(parse_webhook(self.settings, headers, body))
                writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode())


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes] | None:
    """The headers and the body of the next request on a connection, or None when there is none."""
    try:
        head = await reader.readuntil(HEAD_END)
        lines = head.decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return headers, await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


@asynccontextmanager
async def running_receiver(
    settings: Settings | None = None, *, answers: list[int] | None = None
) -> AsyncIterator[Receiver]:
    """A receiver at a port of its own."""
    receiver = Receiver(settings or settings_of_a_shop(), answers=answers or [])
    listening = await asyncio.start_server(receiver.serve, HOST, 0)
    receiver.url = f"http://{HOST}:{listening.sockets[0].getsockname()[1]}/"
    try:
        yield receiver
    finally:
        listening.close()


def shown(event: ProviderEvent) -> Any:
    """An event as plain values."""
    return msgspec.to_builtins(event)
