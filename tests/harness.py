"""What tests do with a shop: run one in this process, make its goods and people, and wait for what must come true."""

import asyncio
import itertools
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import redis.asyncio as aioredis
from sqlalchemy import ColumnElement, func, select, true, update

from loadtests.torture.slowdown import Slowdown
from shop.app.factory import create_app
from shop.audit.schemas import AuditReport
from shop.audit.service import audit_sale
from shop.auth import Actor, issue_token
from shop.database import Database
from shop.ledger import client as ledger
from shop.listening_sockets import listen, port_of
from shop.orders.models import Order
from shop.products import repository as products
from shop.products.models import Product
from shop.redis import ScriptsNotLoaded, connect
from shop.redis_users import Logins
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.loading import load
from shop.sales.models import Sale, SaleStatus
from shop.sales.schemas import SaleCreate
from shop.server.serving import ShopServer, server_config
from shop.settings import Settings
from shop.worker import running_worker

DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.01
# A process learns of a sale four times a second, and to ask whether it has is dear.
LOADED_POLL_SECONDS = 0.04
PROBE_SECONDS = 0.015  # what the probe of `Slowdown` takes on a machine of two idle cores
SLOWDOWN_MAX = 4.0
SOLD_OUT_SECONDS_MAX = 1.0  # how long a process may say "sold out" after units came back; five times its bound
# The shop's two users on every Valkey of the tests; the tests themselves are the default user, who may do everything.
LOGINS = Logins(api_password="the API's, in tests", worker_password="the worker's, in tests")
TESTER = Actor(id="tester", address="127.0.0.1")
# The settings of a shop that a test does not break: a machine that stands still for a while is no fault of it.
PATIENCE = {
    "redis_timeout_seconds": 10.0,
    "redis_pool_wait_seconds": 10.0,
    "purchase_deadline_seconds": 20.0,
    "limiter_timeout_seconds": 10.0,
    "cache_load_wait_seconds": 10.0,
    "database_pool_wait_seconds": 10.0,
    "database_connect_seconds": 10.0,
    "database_ping_seconds": 10.0,
    "database_lock_timeout_seconds": 10.0,
    "order_state_seconds_max": 10.0,
    "request_wait_seconds_max": 10.0,
    "read_seconds_max": 20.0,
    "not_recorded_wait_seconds": 5.0,
    "sse_read_seconds_max": 10.0,
    "heartbeat_seconds": 1.0,
}

# Nothing here speaks TLS, and to read the authorities for each client costs more than most of what it asks.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_numbers = itertools.count(1)


class OutOfTime(AssertionError):
    """A condition did not come true in time. On a busy machine that may be the machine: `make test` tries once more."""


async def wait_until(
    condition: Callable[[], Awaitable[Any]],
    *,
    within: float = DEADLINE_SECONDS,
    every: float = POLL_SECONDS,
    reason: str = "the condition",
) -> Any:
    """The first true value of a condition. Raises OutOfTime when it does not come within the deadline.

    On a machine that is slow just now the deadline is later.
    """
    clock = asyncio.get_running_loop()
    started, allowed = clock.time(), within
    while True:
        value = await condition()
        if value:
            return value
        if clock.time() - started > allowed:
            allowed = within * slowdown()
            if clock.time() - started > allowed:
                raise OutOfTime(f"{reason} did not come true within {allowed:.1f} s; last value {value!r}")
        await asyncio.sleep(every)


def slowdown() -> float:
    """How many times longer than on a quiet machine a program takes just now; from 1 to SLOWDOWN_MAX."""
    machine = Slowdown(cpu_seconds=PROBE_SECONDS)
    machine.probe()
    return min(SLOWDOWN_MAX, machine.factor)


def create_database(url: str, name: str, *, template: str = "template1") -> str:
    """Make a database on the server of `url`, a copy of `template`, and return its URL."""

    async def create() -> None:
        parts = urlsplit(url.replace("+asyncpg", ""))
        connection = await asyncpg.connect(urlunsplit(parts))
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        await connection.close()

    # Fixtures that are not async may still be set up while the tests' loop runs.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, create()).result()
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def new_user_id() -> str:
    """A user id that no other test has; it needs no row, as in the shop itself."""
    return f"buyer{next(_numbers):07d}"


def new_key() -> str:
    """An Idempotency-Key that no other request has."""
    return f"key-{next(_numbers)}-of-{os.getpid()}"


def keyed(headers: Mapping[str, str]) -> dict[str, str]:
    """These headers, with an Idempotency-Key that no other request has."""
    return {**headers, "Idempotency-Key": new_key()}


@dataclass
class Shop:
    """A running shop and the hands to use it with."""

    settings: Settings
    database: Database
    redis: aioredis.Redis
    base_url: str
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    """The sales that were put on sale, and are to be forgotten."""

    async def forget_sales(self, *, since: int | None = None) -> None:
        """Let nobody look after the sales any more that were opened since then, or after any: each costs its share."""
        if since is not None and len(self.opened) <= since:
            return
        chosen: ColumnElement[bool] = true() if since is None else Sale.id.in_(self.opened[since:])
        del self.opened[since or 0 :]
        alive = select(Sale.id).where(chosen, Sale.status != SaleStatus.SETTLED).order_by(Sale.id).with_for_update()
        async with self.database.transaction() as session:
            forgotten = list(await session.scalars(alive))
            owed = Order.sale_id.in_(forgotten), Order.closed_at.is_not(None), Order.released_at.is_(None)
            await session.execute(update(Order).where(*owed).values(released_at=func.now()))
            await session.execute(update(Sale).where(Sale.id.in_(forgotten)).values(status=SaleStatus.SETTLED))

    async def client(self) -> httpx.AsyncClient:
        """An HTTP client of this shop's API, closed with the shop."""
        if not self.clients:
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
            self.clients.append(httpx.AsyncClient(base_url=self.base_url, timeout=30, limits=limits, verify=NO_TLS))
        return self.clients[0]

    def token(self, user_id: str, role: str = "shopper") -> str:
        """A token for a user, who need not have a row."""
        return issue_token(self.settings, user_id=user_id, role=role)

    def headers(self, user_id: str | None = None, *, role: str = "shopper", key: str | None = None) -> dict[str, str]:
        """The headers of a request by this user, with an Idempotency-Key if one is given."""
        headers = {"Authorization": f"Bearer {self.token(user_id or new_user_id(), role)}"}
        return headers if key is None else {**headers, "Idempotency-Key": key}

    def admin_headers(self, *, key: str | None = None) -> dict[str, str]:
        """The headers of a request by an admin; what moves stock needs a key."""
        return self.headers("admin", role="admin", key=key)

    async def sign_up(self, role: str = "shopper") -> dict[str, str]:
        """Register a user over HTTP and return the headers with a token of this role."""
        client = await self.client()
        email = f"user{next(_numbers)}@example.com"
        answer = await client.post("/v1/users", json={"email": email, "password": "correct horse battery"})
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {self.token(answer.json()['id'], role)}"}

    async def make_product(self, *, stock: int = 1_000, price_minor: int = 990) -> Product:
        """A product with units in stock."""
        async with self.database.transaction() as session:
            return await products.add(
                session, name=f"Product {next(_numbers)}", price_minor=price_minor, currency="EUR", stock=stock
            )

    async def draft_sale(
        self,
        *,
        units: int = 10,
        stock: int | None = None,
        starts_in: float = -1.0,
        lasts: float = 3_600.0,
        **rules: Any,
    ) -> Sale:
        """A draft over a product of its own; it starts so many seconds from now."""
        product = await self.make_product(stock=units if stock is None else stock)
        starts_at = datetime.now(UTC) + timedelta(seconds=starts_in)
        wish = SaleCreate(
            product_id=product.id,
            name=f"Sale of product {product.id}",
            units=units,
            starts_at=starts_at,
            ends_at=starts_at + timedelta(seconds=lasts),
            **rules,
        )
        async with self.database.transaction() as session:
            return await service.create(session, TESTER, wish)

    async def open_sale(self, **wishes: Any) -> Sale:
        """A scheduled sale that the API has learned of and the ledger sells (see `draft_sale` for the wishes)."""
        sale = await self.draft_sale(**wishes)
        async with self.database.transaction() as session:
            sale = await service.schedule(session, TESTER, sale.id)
        self.opened.append(sale.id)
        with suppress(ScriptsNotLoaded):  # The controller of a worker that has just started loads them, and the sale.
            await load(self.database, self.redis, sale, self.settings)
        await self.until_loaded(sale)
        return sale

    async def until_loaded(self, sale: Sale) -> None:
        """Return when the API has learned of the sale: then it no longer says that it is not ready."""

        async def known() -> bool:
            client = await self.client()
            answer = await client.post(self.purchase_path(sale), headers=self.headers(), json={"quantity": 9_999})
            code = answer.json().get("code")
            return code not in {"not_ready", "not_found"} and "witness" in answer.json()

        await wait_until(known, every=LOADED_POLL_SECONDS, reason=f"sale {sale.id} is loaded")

    @staticmethod
    def purchase_path(sale: Sale) -> str:
        return f"/v1/seckill/sales/{sale.id}/orders"

    async def buy(
        self, sale: Sale, user_id: str | None = None, *, quantity: int = 1, key: str | None = None
    ) -> httpx.Response:
        """One purchase by this user, or by somebody new."""
        client = await self.client()
        return await client.post(
            self.purchase_path(sale), headers=self.headers(user_id, key=key), json={"quantity": quantity}
        )

    async def bought(self, sale: Sale, user_id: str | None = None, *, quantity: int = 1, key: str | None = None) -> str:
        """The id of a new order. On a busy machine its buyer may have to ask more than once, as any client."""
        user_id = user_id or new_user_id()

        async def answered() -> str | None:
            answer = await self.buy(sale, user_id, quantity=quantity, key=key)
            assert answer.status_code in {200, 202, 503, 504}, answer.text
            return answer.json()["id"] if answer.is_success else None

        order_id: str = await wait_until(answered, reason="an order is made")
        return order_id

    async def buys(self, sale: Sale, user_id: str | None = None, *, quantity: int = 1) -> httpx.Response:
        """The answer that reserved, for a unit that has just come back: "sold out" may be told a moment longer."""
        user_id = user_id or new_user_id()

        async def bought() -> httpx.Response | None:
            answer = await self.buy(sale, user_id, quantity=quantity)
            return answer if answer.status_code == 202 else None

        answer: httpx.Response = await wait_until(bought, within=SOLD_OUT_SECONDS_MAX, reason="a unit is sold")
        return answer

    async def until_told(self, sale: Sale, word: str) -> httpx.Response:
        """The first answer to newcomers that means this word: a sold-out process tells a change a moment later."""

        async def told() -> httpx.Response | None:
            answer = await self.buy(sale)
            return answer if outcome(answer) == word else None

        answer: httpx.Response = await wait_until(told, within=SOLD_OUT_SECONDS_MAX, reason=f"{word} is told")
        return answer

    async def rush(self, sale: Sale, *, buyers: int) -> Counter[str]:
        """So many buyers at once; how often each answer was given (`reserved`, or a code)."""
        answers = await asyncio.gather(*(self.buy(sale) for _ in range(buyers)))
        return Counter(outcome(answer) for answer in answers)

    async def change(self, sale: Sale, verb: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """One of the admin's changes: window, stock, pause, resume, close; each call is a request of its own."""
        client, headers = await self.client(), keyed(self.admin_headers())
        return await client.post(f"/v1/admin/sales/{sale.id}/{verb}", headers=headers, json=body)

    async def row(self, sale: Sale) -> Sale:
        """The sale's row now."""
        async with self.database.transaction() as session:
            found = await sales.find(session, sale.id)
        assert found is not None
        return found

    async def drained(self, sale: Sale) -> Sale:
        """The sale's row, once everything that the ledger has is recorded."""

        async def when_drained() -> Sale | None:
            row = await self.row(sale)
            state = await ledger.read_state(self.redis, sale.id, row.epoch)
            return row if state is not None and state.seq == row.watermark else None

        row: Sale = await wait_until(when_drained, reason=f"sale {sale.id} is drained")
        return row

    async def audit(self, sale: Sale) -> AuditReport:
        """The audit of a sale, as it is now."""
        return await audit_sale(self.database, self.redis, sale.id)

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        await self.database.close()
        await self.redis.aclose(close_connection_pool=True)


def outcome(answer: httpx.Response) -> str:
    """What an answer to a purchase means: `reserved`, `replayed`, or the problem's code."""
    if answer.status_code == 202:
        return "reserved"
    if answer.status_code == 200:
        return "replayed"
    code: str = answer.json()["code"]
    return code


def as_user(settings: Settings, url_of: Callable[[str], str]) -> Settings:
    """The settings of a process that has a user of its own, such as `LOGINS.api_url`, on the tests' Valkeys."""
    side = settings.cache_redis_url
    urls = {"redis_url": url_of(settings.redis_url), "cache_redis_url": url_of(side) if side else None}
    return settings.model_copy(update=urls)


@asynccontextmanager
async def running_shop(settings: Settings, *, worker: bool = True) -> AsyncIterator[Shop]:
    """A shop in this process: the API on a real socket of the loopback, and a worker unless it is not wanted.

    Both have only their own rights in Redis, so a test that uses the shop also tests that these are enough.
    """
    async with _running_api(as_user(settings, LOGINS.api_url)) as base_url:
        shop = Shop(
            settings, Database(settings, application_name="shop-tests"), connect(settings.redis_url, settings), base_url
        )
        try:
            if worker:
                async with running_worker(as_user(settings, LOGINS.worker_url)):
                    yield shop
            else:
                yield shop
        finally:
            await shop.close()


@asynccontextmanager
async def _running_api(settings: Settings) -> AsyncIterator[str]:
    [listener] = listen("127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{port_of(listener)}"
    server = ShopServer(server_config(partial(create_app, settings), settings), [listener])
    # What `serve` does besides is to take the process's signals, and those are pytest's.
    serving = asyncio.create_task(server._serve())

    async def serves() -> bool:
        if serving.done():
            serving.result()  # Raises what went wrong.
        return server.started

    await wait_until(serves, reason="the API is up")
    try:
        yield base_url
    finally:
        server.should_exit = True
        await serving
