"""The fixtures of all tests: real Valkey and PostgreSQL, started once, and a whole shop in this process.

Tests that ask for `database` and `redis` alone get clean ones of their own. Tests that ask for `shop` get the running
shop, whose `database` and `redis` are then those of the shop; nothing is cleaned there, so each test makes its own
product, sale and users.
"""

import asyncio
import functools
import gc
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio as aioredis
import structlog
from sqlalchemy import text

from shop.database import Base, Database
from shop.embedded import EmbeddedServers, embedded_servers
from shop.logs import StandardError
from shop.migrating import migrate
from shop.redis import connect, load_scripts
from shop.settings import Settings
from tests.harness import LOGINS, PATIENCE, Shop, create_database, running_shop
from tests.processes import copy_of

# So that no process of the run is left alone with one of them at the end.
LONGEST_FIRST = (
    "test_losses",
    "test_model",
    "test_demo",
    "test_release",
    "test_up",
    "test_torture",
    "test_events",
    "test_races",
    "test_wheel",
    "test_postgres_hangs",
)

# What pytest-timeout raises may land in a task of the shop, which swallows it; so a test ends itself before.
ENDS_BEFORE_TIMEOUT_SECONDS = 5

_numbers = itertools.count(1)
# Whose each number of the shared Valkey is: beside the ledger of another database a shop would load nothing.
# The running shop has 0, and leaves it empty when it is stopped; so have shops whose Valkey is their own.
_databases: dict[int, str] = {}


@dataclass
class Schedule:
    """What is known of the order of the tests."""

    next: pytest.Item | None = None


_schedule = Schedule()


class KeptShop:
    """A running shop that outlives the files that use it one after the other: to start one costs a second."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._shop: Shop | None = None

    async def started(self, settings: Settings) -> Shop:
        """The shop; it is started if it does not run."""
        if self._shop is None:
            self._shop = await self._stack.enter_async_context(running_shop(settings))
        return self._shop

    async def stop(self) -> None:
        """Stop it, if it runs, and leave its Valkey as empty as it was."""
        shop, self._shop = self._shop, None
        if shop is not None:
            await self._stack.aclose()
            # Not before: its worker would take a ledger that is gone for a lost one, and begin to recover the sale.
            client = connect(shop.settings.redis_url, shop.settings)
            await client.flushdb()
            await client.aclose(close_connection_pool=True)


def pytest_configure() -> None:
    """A traceback is logged as Python writes it: to draw one, with the locals, stops the loop for up to a second."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain], logger_factory=StandardError)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, and give each test that awaits its time."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            seconds = float(marker.args[0] if marker else config.getini("timeout"))
            item.obj = in_time(item.obj, seconds - ENDS_BEFORE_TIMEOUT_SECONDS)


def in_time(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    """A test that is cancelled, and raises TimeoutError, when it takes longer."""

    @functools.wraps(test)
    async def timed(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return timed


def pytest_collection_finish() -> None:
    """Let the collector never look again at what lives as long as the run: each visit stops everything for 0.2 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """One Valkey and one PostgreSQL for the whole run."""
    with embedded_servers(durable=False, redis_users=LOGINS.lines) as running:
        yield running


def settings_of(servers: EmbeddedServers, *, database: str, redis_number: int, template: str = "template1") -> Settings:
    """The settings of a shop of the tests, with a new database."""
    assert redis_number == 0 or _databases.setdefault(redis_number, database) == database, _databases
    return Settings(
        _env_file=None,
        environment="test",
        secret_key="a-secret-of-the-tests-that-is-long-enough",
        payment_api_key="a-key-of-the-tests",
        payment_webhook_secret="whsec_dGhlLXNlY3JldC1vZi10aGUtdGVzdHMtaXMtbG9uZw==",
        database_url=create_database(servers.database_url, database, template=template),
        redis_url=f"{servers.redis_url}?db={redis_number}",
        log_level="error",
        heartbeat_seconds=0.5,
        recovery_lease_seconds=0.5,
        # Tests that break a ledger by hand are about who notices it; the folder of the audit has a busy one.
        audit_interval_seconds=60.0,
        purchase_rate_per_second=1_000,
        purchase_burst=1_000,
        explain_rate_per_second=1_000,
        explain_burst=1_000,
        # The tests' clients are in the same loop, and would be refused for the delay that they make themselves.
        overload_delay_seconds=10.0,
        sign_in_per_minute_per_address=10_000,
        # Many shops share one server here.
        database_pool_kept=1,
        # Fifty requests at once on a busy machine are slow; they are not what these tests are about.
        database_pool_wait_seconds=10.0,
        database_connect_seconds=5.0,
    )


@pytest.fixture(scope="session")
def clean_settings(servers: EmbeddedServers) -> Settings:
    """The settings of the clean servers, with the schema in place."""
    settings = settings_of(servers, database="clean", redis_number=1)
    migrate(settings)
    return settings


@pytest.fixture(scope="session")
def live_settings(servers: EmbeddedServers) -> Settings:
    """The settings of the running shop, with the schema in place."""
    settings = copy_of(settings_of(servers, database="live", redis_number=0), **PATIENCE)
    migrate(settings)
    return settings


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """The settings of the running shop for a test that asks for it, else those of the clean servers."""
    name = "live_settings" if "shop" in request.fixturenames else "clean_settings"
    found: Settings = request.getfixturevalue(name)
    return found


@pytest.fixture
async def database(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """A connection to Postgres; empty tables, unless it is the running shop's."""
    own = Database(settings, application_name="shop-tests")
    if "shop" not in request.fixturenames:
        tables = ", ".join(Base.metadata.tables)
        async with own.transaction() as session:
            await session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    yield own
    await own.close()


@pytest.fixture
async def redis(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[aioredis.Redis]:
    """A client with the scripts loaded; an empty database, unless it is the running shop's."""
    client = connect(settings.redis_url, settings)
    if "shop" not in request.fixturenames:
        await client.flushdb()
        await load_scripts(client)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(nextitem: pytest.Item | None) -> None:
    """Remember which test is the next one."""
    _schedule.next = nextitem


@pytest.fixture(scope="session")
async def kept_shop() -> AsyncIterator[KeptShop]:
    """The running shop, or nothing yet, for all files."""
    kept = KeptShop()
    yield kept
    await kept.stop()


@pytest.fixture(scope="module")
async def live_shop(live_settings: Settings, kept_shop: KeptShop) -> AsyncIterator[Shop]:
    """The running shop: the API on a real socket, and a worker, in this process.

    It is stopped before a file that does not use it: one that nobody uses takes a tenth of a core.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    shop = await kept_shop.started(live_settings)
    yield shop
    await shop.forget_sales()
    if _schedule.next is None or "live_shop" not in getattr(_schedule.next, "fixturenames", ()):
        await kept_shop.stop()


@pytest.fixture
async def shop(live_shop: Shop) -> AsyncIterator[Shop]:
    """The running shop, which forgets the sales of a test when it is over."""
    opened = len(live_shop.opened)
    yield live_shop
    await live_shop.forget_sales(since=opened)


@pytest.fixture(scope="session")
def template_database(servers: EmbeddedServers) -> str:
    """A migrated database that others are copied from, which takes a tenth of the time of migrating."""
    settings = settings_of(servers, database="template_of_shops", redis_number=0)
    migrate(settings)
    return "template_of_shops"


@pytest.fixture
def fresh_settings(servers: EmbeddedServers, template_database: str) -> Settings:
    """The settings of a database of the test's own, with the schema in place; see `tests.processes.own_shop`."""
    name = f"fresh_{next(_numbers)}"
    return settings_of(servers, database=name, redis_number=0, template=template_database)
