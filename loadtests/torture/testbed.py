"""The testbed: a shop with servers and processes of its own, which can be killed, stopped and started again."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import redis.asyncio as aioredis

from loadtests.bench.accounting import children, family
from loadtests.bench.settings import production_settings
from loadtests.chaos import ChaosProxy, chaos_proxy
from shop.auth import issue_token
from shop.database import Database
from shop.embedded import EmbeddedServers, PostgresServer, ServerUnavailable, ValkeyServer
from shop.failure_isolation import SERVER_ERRORS
from shop.local import LocalShop, NotStarted, worker_urls
from shop.migrating import migrate
from shop.redis import connect
from shop.redis_users import Logins
from shop.settings import Settings

API = "api"
WORKERS = ("worker-1", "worker-2")
API_PROCESSES = 2
OVERLOAD_DELAY_SECONDS = 0.5
NOT_READY = 1
STARTS_MAX = 5
END_SECONDS_MAX = 20.0
ASK_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02
# What has this many sockets open is connected to both servers; before that it has only its loop's own pair.
SOCKETS_OF_A_WORKER = 5

Found = TypeVar("Found")


class Wrecked(Exception):
    """The testbed cannot bring the shop back; nothing can be said of its promises."""


@dataclass
class Testbed:
    """A running shop. `settings`, `database` and `redis` are the torturer's own, who may do everything.

    `network` stands between the API and Valkey, `wire` between the workers and Postgres.
    """

    settings: Settings
    directory: Path
    aof: str
    servers: EmbeddedServers
    local: LocalShop
    database: Database
    redis: aioredis.Redis
    network: ChaosProxy
    wire: ChaosProxy
    # When Redis lost what it had written last, on the monotonic clock.
    losses: list[float] = field(default_factory=list)

    @property
    def admin_token(self) -> str:
        """A token that may change sales."""
        return issue_token(self.settings, user_id="torturer", role="admin")

    def start(self, name: str, *, fault: str = "") -> None:
        """Start the API or a worker; with `fault` it kills or stops itself at this point (`shop.faults`)."""
        extra = {"SHOP_FAULT": fault} if fault else {}
        if name == API:
            self.local.start(name, "api", extra=extra)
        else:
            self.local.start(name, "worker", extra={**extra, "SHOP_DATABASE_URL": self.wire.url})

    def restart_ended(self) -> None:
        """Start again what found a server away when it started and therefore ended, as a service manager would.

        Raises Wrecked for any other end.
        """
        for name, process in list(self.local.processes.items()):
            status = process.poll()
            if status == NOT_READY:
                self.start(name)
            elif status is not None:
                raise Wrecked(f"{name} ended by itself with status {status}")

    def pid(self, name: str) -> int:
        """The process that was started under this name."""
        return self.local.processes[name].pid

    def api_pids(self) -> list[int]:
        """The processes that serve, without their parent."""
        return [pid for server in children(self.pid(API)) for pid in children(server)]

    async def until_works(self, name: str) -> None:
        """Return when a worker is connected to both servers, or when it has ended. Raises Wrecked."""
        process = self.local.processes[name]
        await until(lambda: process.poll() is not None or sockets(process.pid) >= SOCKETS_OF_A_WORKER, reason=name)

    async def until_ended(self, name: str, *, within: float = END_SECONDS_MAX) -> int:
        """Return the status of a process that ends by itself. Raises Wrecked."""
        process = self.local.processes[name]
        await until(lambda: process.poll() is not None, within=within, reason=f"{name} has ended")
        return process.returncode

    async def start_server(self, server: ValkeyServer | PostgresServer) -> None:
        """Start a server on its data; what was killed needs a moment to let go of it. Raises Wrecked."""
        for tries in range(STARTS_MAX):
            try:
                await asyncio.to_thread(server.start)
                return
            except ServerUnavailable as error:
                if tries == STARTS_MAX - 1:
                    raise Wrecked(f"{type(server).__name__} does not start: {error}") from error
                await asyncio.sleep(0.2)

    async def until_answered(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        """What a server answers, as soon as it answers. Raises the error of the last try when it takes too long."""
        deadline = time.monotonic() + ASK_SECONDS_MAX
        while True:
            try:
                return await ask()
            except SERVER_ERRORS:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)


async def until(condition: Callable[[], bool], *, within: float = END_SECONDS_MAX, reason: str) -> None:
    """Wait for something in this process or of the system. Raises Wrecked."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise Wrecked(f"{reason}: not within {within:g} s")
        await asyncio.sleep(POLL_SECONDS)


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:")
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Within it these processes and all that descend from them are stopped."""
    stopped = [process for pid in pids for process in family(pid)]
    send(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        send(stopped, signal.SIGCONT)


@asynccontextmanager
async def testbed(directory: Path, *, aof: str, seed: int) -> AsyncIterator[Testbed]:
    """A shop in this directory, ready to sell; everything ends with the block. Raises ServerUnavailable, NotStarted."""
    logins = Logins.random()
    servers = EmbeddedServers(
        ValkeyServer(directory, appendfsync=aof, users=logins.lines), PostgresServer(directory, durable=True)
    )
    async with AsyncExitStack() as stack:
        for server in (servers.postgres, servers.valkey):
            stack.callback(server.stop)
            await asyncio.to_thread(server.start)
        settings = production_settings(servers).model_copy(
            update={
                "environment": "test",  # Only a shop that is not in production breaks itself at a named point.
                "api_processes": API_PROCESSES,
                "metrics_port": 0,
                "log_level": "info",
                # All of it shares the cores of one machine, and refusals are not what this is about.
                "overload_delay_seconds": OVERLOAD_DELAY_SECONDS,
            }
        )
        await asyncio.to_thread(migrate, settings)
        network = await stack.enter_async_context(chaos_proxy(logins.api_url(servers.redis_url), seed=seed))
        wire = await stack.enter_async_context(chaos_proxy(servers.database_url, seed=seed))
        of_the_shop = settings.model_copy(update={"redis_url": network.url})
        local = LocalShop(of_the_shop, directory, worker_urls(logins, servers))
        database = Database(settings, application_name="shop-torture", pool_max=4, statement_seconds=60)
        stack.push_async_callback(database.close)
        client = connect(settings.redis_url, settings)
        stack.push_async_callback(client.aclose, close_connection_pool=True)
        here = Testbed(settings, directory, aof, servers, local, database, client, network, wire)
        stack.push_async_callback(_stop_all, here)
        for name in (*WORKERS, API):
            here.start(name)
        await _until_ready(local)
        yield here


async def _until_ready(local: LocalShop) -> None:
    """Wait longer than others do: everything starts at once here. Raises NotStarted."""
    for _ in range(STARTS_MAX - 1):
        with suppress(NotStarted):
            await asyncio.to_thread(local.wait_until_ready)
            return
    await asyncio.to_thread(local.wait_until_ready)


async def _stop_all(here: Testbed) -> None:
    """End what runs, also what is stopped, in the order of a shop that is switched off."""
    for process in here.local.processes.values():
        send(family(process.pid) if process.poll() is None else [], signal.SIGCONT)
    for name in sorted(here.local.processes):
        await asyncio.to_thread(here.local.stop, name)


def new_directory(parent: Path | None) -> Path:
    """A directory for one run."""
    return Path(tempfile.mkdtemp(prefix="shop-torture-", dir=parent))
