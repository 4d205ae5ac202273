"""Shops of their own for tests that break things: a Valkey, a database, and API and workers as processes to kill."""

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from shop.embedded import PostgresServer, ValkeyServer
from shop.local import environment_of
from shop.redis import script
from shop.settings import Settings
from tests.harness import DEADLINE_SECONDS, LOGINS, NO_TLS, Shop, as_user, running_shop, wait_until
from tests.nursery import END_SECONDS, Child, family
from tests.ports import unused_port


@dataclass
class Processes:
    """Commands of the shop that run as processes of their own, each with a log in `directory`."""

    settings: Settings
    directory: Path
    running: dict[str, Child] = field(default_factory=dict)

    def start(self, name: str, *command: str, **variables: str) -> Child:
        """Run `shop COMMAND…`; `variables` are added to its environment, such as SHOP_FAULT="after_commit"."""
        own = as_user(self.settings, LOGINS.worker_url if command[0] == "worker" else LOGINS.api_url)
        environment = {**os.environ, **environment_of(own), **variables}
        child = Child(command, environment=environment, output=self.directory / f"{name}.log")
        self.running[name] = child
        return child

    def start_worker(self, name: str = "worker", **variables: str) -> Child:
        """A worker without a metrics port."""
        return self.start(name, "worker", SHOP_WORKER_METRICS_PORT="0", SHOP_LOG_LEVEL="info", **variables)

    async def start_api(self, name: str = "api", **variables: str) -> str:
        """An API at the settings' port; returns its address when it answers."""
        address = f"http://127.0.0.1:{self.settings.api_port}"
        child = self.start(name, "api", SHOP_METRICS_PORT="0", **variables)

        async def answers() -> bool:
            assert child.poll() is None, self.log(name)
            with suppress(httpx.TransportError):
                return (await client.get(f"{address}/livez")).status_code == 200
            return False

        async with httpx.AsyncClient(verify=NO_TLS) as client:
            await wait_until(answers, reason=f"{name} answers")
        return address

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of them."""
        self.running[name].send_signal(number)

    async def until_dead(self, name: str, *, within: float = END_SECONDS) -> int:
        """Wait until a process has ended, and return its status; minus the signal's number if it was killed."""
        process = self.running[name]

        async def ended() -> bool:
            return process.poll() is not None

        await wait_until(ended, within=within, reason=f"{name} has ended")
        assert process.returncode is not None
        return process.returncode

    async def until_stopped(self, name: str) -> None:
        """Wait until a process has stopped itself with SIGSTOP."""
        pid = self.running[name].pid

        async def stopped() -> bool:
            return psutil.Process(pid).status() == psutil.STATUS_STOPPED

        await wait_until(stopped, within=END_SECONDS, reason=f"{name} has stopped")

    async def until_said(self, name: str, words: str) -> None:
        """Wait until a process has logged these words."""

        async def said() -> bool:
            return words in self.log(name)

        await wait_until(said, reason=f"{name} has said {words!r}")

    def log(self, name: str) -> str:
        """What a process has said so far."""
        file = self.directory / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def end_all(self) -> None:
        """Kill whatever still runs, also what is stopped."""
        for process in self.running.values():
            process.send_signal(signal.SIGKILL)
            process.wait()


@dataclass
class OwnShop:
    """A shop with servers that nobody else uses. `shop` is its API in this process; workers are processes."""

    shop: Shop
    processes: Processes
    valkey: ValkeyServer

    def through(self, base_url: str) -> Shop:
        """The same shop, reached through another API of it. The caller closes its clients."""
        return replace(self.shop, base_url=base_url, clients=[])


@asynccontextmanager
async def own_shop(
    settings: Settings,
    directory: Path,
    *,
    worker_here: bool = False,
    valkey: ValkeyServer | None = None,
    redis_url: str | None = None,
) -> AsyncIterator[OwnShop]:
    """The API of a shop in this process on a Valkey of its own; with `worker_here` a worker in this process as well.

    `settings` name the migrated database to use, `redis_url` says how the shop reaches the Valkey if not directly.
    """
    valkey = valkey or ValkeyServer(directory, users=LOGINS.lines)
    valkey.start()
    own = copy_of(settings, redis_url=redis_url or valkey.url, api_port=unused_port())
    processes = Processes(own, directory)
    try:
        async with running_shop(own, worker=worker_here) as shop:
            yield OwnShop(shop, processes, valkey)
    finally:
        processes.end_all()
        valkey.stop()


def copy_of(settings: Settings, **values: object) -> Settings:
    """The settings with some values changed, checked again."""
    plain: dict[str, Any] = {**settings.model_dump(), **values}
    return Settings(_env_file=None, **plain)


@contextmanager
def own_postgres(directory: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that may be stopped and killed; what it has on the disk survives that."""
    server = PostgresServer(directory, durable=False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def call_of(name: str) -> bytes:
    """How a call of this script begins on the wire: what a proxy looks for."""
    return b"EVALSHA\r\n$40\r\n" + script(name).sha.encode()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Within it a process and all its children are stopped, as SIGSTOP does."""
    stopped = family(pid)
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def lasting(seconds: float) -> None:
    """Return when a fault has lasted so long."""
    end = time.monotonic() + seconds

    async def over() -> bool:
        return time.monotonic() >= end

    await wait_until(over, within=seconds + DEADLINE_SECONDS)
