"""`shop api` as a command of its own beside the running shop, and the processes that it keeps."""

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from shop.metrics import MULTIPROCESS_VARIABLE
from shop.sales.models import Sale
from tests.harness import NO_TLS, Shop, wait_until
from tests.ports import unused_port
from tests.processes import Processes, copy_of

START_SECONDS = 30.0
NAME = "api"
CONNECTIONS_TO_MEET_ALL = 16


@dataclass
class ServedApi:
    """The command; `shop` is the running shop, reached through it."""

    shop: Shop
    processes: Processes
    metrics_port: int

    @classmethod
    async def start(cls, live: Shop, directory: Path, *, processes: int, **variables: str) -> "ServedApi":
        """Start it beside the running shop, and wait until each of its processes serves."""
        # These tests offer as much as the machine can take; that the API refuses what is too much is tested elsewhere.
        settings = copy_of(
            live.settings,
            api_port=unused_port(),
            metrics_port=unused_port(),
            overload_delay_seconds=10.0,
        )
        address = f"http://127.0.0.1:{settings.api_port}"
        shop = Shop(settings, live.database, live.redis, address)
        served = cls(shop, Processes(settings, directory), settings.metrics_port)
        variables = {"SHOP_METRICS_PORT": str(settings.metrics_port), "SHOP_LOG_LEVEL": "info", **variables}
        child = served.processes.start(NAME, "api", "--processes", str(processes), **variables)

        async def serves() -> bool:
            assert child.poll() is None, served.log
            if processes > 1:
                return len(served.workers()) == processes
            with suppress(httpx.TransportError):
                return (await (await shop.client()).get("/livez")).status_code == 200
            return False

        await wait_until(serves, within=START_SECONDS, reason="the API serves")
        return served

    @property
    def log(self) -> str:
        return self.processes.log(NAME)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.processes.running[NAME].pid)

    def workers(self) -> list[int]:
        """The processes that serve, by their ids, in the order in which they came."""
        events = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        serving = [event["pid"] for event in events if event["event"] == "process_serves"]
        ended = {event["pid"] for event in events if event["event"] == "process_ended"}
        return [pid for pid in serving if pid not in ended]

    @property
    def counted_in(self) -> Path | None:
        """The directory where its processes count together, if it has several."""
        workers = self.workers()
        return Path(psutil.Process(workers[0]).environ()[MULTIPROCESS_VARIABLE]) if workers else None

    async def open_sale(self, *, units: int) -> Sale:
        """A sale that every process has learned of."""
        sale = await self.shop.open_sale(units=units)
        for _ in range(CONNECTIONS_TO_MEET_ALL):
            fresh = replace(self.shop, clients=[])
            await fresh.until_loaded(sale)
            await (await fresh.client()).aclose()
        return sale

    async def until_workers(self, count: int, *, without: set[int], within: float = START_SECONDS) -> list[int]:
        """Wait until so many processes serve and none of those is left."""

        async def complete() -> list[int]:
            found = self.workers()
            return found if len(found) == count and not without & set(found) else []

        found: list[int] = await wait_until(complete, within=within, reason=f"{count} new processes serve")
        return found

    async def counted(self, name: str, label: str) -> Counter[str]:
        """The counter `name` as the metrics page shows it, by the value of a label."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(await self.metrics()):
            for sample in family.samples:
                if sample.name == name:
                    found[sample.labels.get(label, "")] += int(sample.value)
        return found

    async def metrics(self) -> str:
        """The metrics page."""
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            return (await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the command to end, and return its status."""
        self.processes.send(NAME, number)
        return await self.until_ended()

    async def until_ended(self) -> int:
        return await self.processes.until_dead(NAME)

    async def close(self) -> None:
        """End it, and whatever is left of it."""
        for client in self.shop.clients:
            await client.aclose()
        with suppress(AssertionError):
            await self.stop()
        left = self.workers()
        self.processes.end_all()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
