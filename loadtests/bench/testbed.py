"""The testbed of a run: servers of its own, the shop's processes and the generator, each pinned to its core.

The API process under test is alone on the first core; the servers, the worker, the generator and this process share the
second one. Where there is only one core, all share it, and the report says so.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import redis.asyncio as aioredis

from loadtests.bench.accounting import family
from loadtests.bench.cores import Cores, pinned, raise_file_limit
from loadtests.bench.messages import Plan, Round
from loadtests.bench.requests import Shoppers
from loadtests.bench.settings import HOST, production_settings
from shop.database import Database
from shop.embedded import EmbeddedServers, embedded_servers
from shop.listening_sockets import free_port
from shop.local import LocalShop, worker_urls
from shop.migrating import migrate
from shop.processes import run_beside
from shop.redis import connect
from shop.redis_users import Logins
from shop.settings import Settings

ROUND_SECONDS_MAX = 120.0
READY_SECONDS_MAX = 20.0
POLL_SECONDS = 0.02
BASELINES = ("bare", "asgi_best", "textbook", "postgres_only")
# The same for every baseline, and what `shop api` does: no access log, no Server header.
UVICORN_FLAGS = ("--no-access-log", "--no-server-header", "--log-level", "warning", "--backlog", "4096")


class NotMeasured(Exception):
    """Something that had to be measured could not be."""


@dataclass
class Generator:
    """The generator's process; it plays one plan at a time."""

    process: asyncio.subprocess.Process

    async def play(self, plan: Plan) -> Round:
        """What a round measured. Raises NotMeasured when the generator ended, or did not."""
        if self.process.stdin is None or self.process.stdout is None:
            raise NotMeasured("the generator has no pipes")
        self.process.stdin.write(msgspec.json.encode(plan) + b"\n")
        try:
            async with asyncio.timeout(ROUND_SECONDS_MAX):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise NotMeasured(f"a round took more than {ROUND_SECONDS_MAX:g} s") from None
        if not line:
            raise NotMeasured("the generator has ended")
        return msgspec.json.decode(line, type=Round)

    def kill(self) -> None:
        """End it, if it has not ended by itself."""
        if self.process.returncode is None:
            self.process.kill()


@dataclass
class Testbed:
    """A shop to be measured, and what measures it."""

    settings: Settings
    servers: EmbeddedServers
    database: Database
    redis: aioredis.Redis
    local: LocalShop
    generator: Generator
    # Plays beside the other one.
    crowd: Generator
    cores: Cores
    ports: dict[str, int] = field(default_factory=dict)
    # What a contender was last seen to answer in a second: enough requests are made for the next round, not too many.
    rates: dict[str, float] = field(default_factory=dict)
    # Sales that are open and were not used yet, by their units.
    prepared: dict[int, list[int]] = field(default_factory=dict)
    names: int = 0

    def new_name(self) -> str:
        """A name for shoppers that no other round has."""
        self.names += 1
        return f"r{self.names:04d}"

    def shoppers(self, count: int, *, name: str | None = None, issued_at: int | None = None) -> Shoppers:
        """New shoppers, or, by name, those of an earlier round with tokens that were issued at another time."""
        return Shoppers(
            name=name or self.new_name(),
            count=count,
            secret=self.settings.secret_key.get_secret_value(),
            issuer=self.settings.token_issuer,
            audience=self.settings.token_audience,
            issued_at=issued_at or int(time.time()),
        )

    def accounts(self, contender: str) -> dict[str, list[int]]:
        """Whose CPU a round reads: the API under test, the servers, and the processes that should be idle."""
        pids = {name: process.pid for name, process in self.local.processes.items()}
        own = pids.pop(_process_of(contender))
        worker = pids.pop("worker", None)
        return {
            "api": [own],
            "redis": self.valkey_pids,
            "postgres": family(self.servers.postgres.pid),
            "worker": [worker] if worker else [],
            "others": list(pids.values()),
        }

    def start_baseline(self, name: str, answer: Path) -> None:
        """Start a contender other than the shop; `answer` is what `bare` sends."""
        port = free_port(HOST, 0)
        environment = {
            **os.environ,
            "BENCH_ANSWER": str(answer),
            "SHOP_SECRET_KEY": self.settings.secret_key.get_secret_value(),
            "SHOP_REDIS_URL": self.settings.redis_url,
            "SHOP_DATABASE_URL": self.settings.database_url,
        }
        command = [sys.executable, "-m", "uvicorn", f"loadtests.baselines.{name}:app", "--host", HOST]
        with pinned(self.cores.api), self.local.log(name).open("ab") as log:
            self.local.processes[name] = run_beside(
                [*command, "--port", str(port), *UVICORN_FLAGS], environment=environment, output=log
            )
        self.ports[name] = port

    async def until_listening(self, name: str) -> None:
        """Return when a contender takes connections. Raises NotMeasured."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self.local.processes[_process_of(name)].poll() is None:
            try:
                _, writer = await asyncio.open_connection(HOST, self.ports[name])
            except OSError:
                await asyncio.sleep(POLL_SECONDS)
                continue
            writer.close()
            return
        raise NotMeasured(f"{name} did not start:\n{self.local.log(_process_of(name)).read_text()[-2000:]}")

    def start_worker(self) -> None:
        """Start the worker if it does not run, on the core of the servers."""
        if "worker" not in self.local.processes:
            with pinned(self.cores.rest):
                self.local.start("worker", "worker")

    def pin_worker(self, core: int) -> None:
        """Move the worker to another core."""
        for task in Path(f"/proc/{self.worker_pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})

    @property
    def valkey_pids(self) -> list[int]:
        """The ledger's server and the side server."""
        return [server.pid for server in (self.servers.valkey, self.servers.side) if server]

    @property
    def worker_pid(self) -> int:
        """The worker, which must run."""
        return self.local.processes["worker"].pid

    @contextmanager
    def worker_frozen(self) -> Iterator[None]:
        """Within it the worker does nothing, and is not asked to end."""
        os.kill(self.worker_pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.worker_pid, signal.SIGCONT)

    async def stop_worker(self) -> None:
        """Stop the worker; it finishes what it has in hand."""
        await asyncio.to_thread(self.local.stop, "worker")


def _process_of(contender: str) -> str:
    return "api" if contender == "shop" else contender


@asynccontextmanager
async def running_testbed(directory: Path | None) -> AsyncIterator[Testbed]:
    """Servers, the shop's API and a worker that has loaded the scripts; all end with the block."""
    cores = Cores.chosen()
    raise_file_limit()
    # A child has the affinity of the thread that makes it.
    logins = Logins.random()
    with (
        _home(directory) as home,
        pinned(cores.rest),
        embedded_servers(home, redis_users=logins.lines, side=True) as servers,
    ):
        settings = production_settings(servers)
        await asyncio.to_thread(migrate, settings)
        # The baselines and the bench itself may do everything; API and worker have the rights that they always have.
        side = servers.side_url and logins.api_url(servers.side_url)
        own = settings.model_copy(update={"redis_url": logins.api_url(servers.redis_url), "cache_redis_url": side})
        local = LocalShop(own, home, worker_urls(logins, servers))
        database = Database(settings, application_name="shop-bench", pool_max=2, statement_seconds=120)
        client = connect(settings.redis_url, settings)
        generator, crowd = await _start_generator(), await _start_generator()
        try:
            local.start("worker", "worker")
            with pinned(cores.api):
                local.start("api", "api")
            await asyncio.to_thread(local.wait_until_ready)
            ports = {"shop": settings.api_port}
            yield Testbed(settings, servers, database, client, local, generator, crowd, cores, ports)
        finally:
            for each in (generator, crowd):
                each.kill()
            for name in (*BASELINES, "api", "worker"):
                await asyncio.to_thread(local.stop, name)
            await database.close()
            await client.aclose(close_connection_pool=True)


async def _start_generator() -> Generator:
    command, pipe = [sys.executable, "-m", "loadtests.bench.generator"], asyncio.subprocess.PIPE
    return Generator(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))


@contextmanager
def _home(directory: Path | None) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="shop-bench-", dir=directory))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
