"""Shops of their own for tests that break things: a Valkey, a database, and workers as processes that can be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shop.embedded import PostgresServer, ValkeyServer
from shop.local import environment_of, free_port
from shop.processes import run_beside
from shop.settings import Settings
from tests.harness import Shop, running_shop, wait_until

END_SECONDS = 20.0


@dataclass
class Processes:
    """Commands of the shop that run as processes of their own, each with a log in `directory`."""

    settings: Settings
    directory: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Run `shop COMMAND…`; `variables` are added to its environment, such as SHOP_FAULT="after_commit"."""
        environment = {**os.environ, **environment_of(self.settings), **variables}
        with (self.directory / f"{name}.log").open("ab") as log:
            process = run_beside([sys.executable, "-m", "shop", *command], environment=environment, output=log)
        self.running[name] = process
        return process

    def start_worker(self, name: str = "worker", **variables: str) -> "subprocess.Popen[bytes]":
        """A worker without a metrics port."""
        return self.start(name, "worker", SHOP_WORKER_METRICS_PORT="0", **variables)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of them."""
        self.running[name].send_signal(number)

    async def until_dead(self, name: str) -> int:
        """Wait until a process has ended, and return its status; minus the signal's number if it was killed."""
        process = self.running[name]

        async def ended() -> bool:
            return process.poll() is not None

        await wait_until(ended, within=END_SECONDS, reason=f"{name} has ended")
        return process.returncode

    async def until_stopped(self, name: str) -> None:
        """Wait until a process has stopped itself with SIGSTOP."""
        status = Path(f"/proc/{self.running[name].pid}/stat")

        async def stopped() -> bool:
            return status.read_text().rpartition(")")[2].split()[0] == "T"  # noqa: ASYNC240 - not on a disk

        await wait_until(stopped, within=END_SECONDS, reason=f"{name} has stopped")

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def end_all(self) -> None:
        """Kill whatever still runs, also what is stopped."""
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@dataclass
class OwnShop:
    """A shop with servers that nobody else uses. `shop` is its API in this process; workers are processes."""

    shop: Shop
    processes: Processes
    valkey: ValkeyServer
    postgres: PostgresServer | None


@asynccontextmanager
async def own_shop(
    settings: Settings, directory: Path, *, own_postgres: PostgresServer | None = None, worker_here: bool = False
) -> AsyncIterator[OwnShop]:
    """The API of a shop in this process on a Valkey of its own; with `worker_here` a worker in this process as well.

    `settings` name the migrated database to use.
    """
    valkey = ValkeyServer(directory)
    valkey.start()
    own = settings.model_copy(update={"redis_url": valkey.url, "api_port": free_port("127.0.0.1", 0)})
    processes = Processes(own, directory)
    try:
        async with running_shop(own, worker=worker_here) as shop:
            yield OwnShop(shop, processes, valkey, own_postgres)
    finally:
        processes.end_all()
        valkey.stop()


def copy_of(settings: Settings, **values: object) -> Settings:
    """The settings with some values changed, checked again."""
    plain: Mapping[str, object] = {**settings.model_dump(), **values}
    return Settings(_env_file=None, **plain)
