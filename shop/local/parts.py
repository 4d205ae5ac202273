"""The running shop: its settings, its address, and its processes, which end with this one."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from shop.embedded import EmbeddedServers
from shop.metrics import MULTIPROCESS_VARIABLE
from shop.processes import run_beside
from shop.redis_users import Logins
from shop.settings import Settings
from shop.settings.addresses import http_url

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05


class NotStarted(Exception):
    """A process of the local shop did not come up, or has ended; `details` is the tail of its log."""

    def __init__(self, problem: str, details: str = "") -> None:
        super().__init__("\n".join(filter(None, (problem, details))))
        self.problem, self.details = problem, details


@dataclass
class LocalShop:
    """The running shop: its settings, its address, and the processes that may be stopped one by one.

    A worker has the same settings, but for the variables of `worker_urls`: those of its own user of Redis.
    """

    settings: Settings
    directory: Path
    worker_urls: Mapping[str, str] = field(default_factory=dict)
    servers: EmbeddedServers | None = None
    lock: int | None = None
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        return http_url(self.settings.api_host, self.settings.api_port)

    @property
    def provider_url(self) -> str:
        return self.settings.payment_provider_url

    @property
    def metrics_url(self) -> str:
        return f"{http_url(self.settings.metrics_host, self.settings.metrics_port)}/metrics"

    def start(
        self,
        name: str,
        *command: str,
        extra: Mapping[str, str] | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Run `shop COMMAND…` as a child whose output goes to `<name>.log`, and which serves at these sockets."""
        numbers = [listener.fileno() for listener in sockets]
        own = self.worker_urls if command[0] == "worker" else {}
        with self.log(name).open("ab") as log:
            self.processes[name] = run_beside(
                [sys.executable, "-m", "shop", *command, *(f"--fd={number}" for number in numbers)],
                inherit=[*numbers, *([] if self.lock is None else [self.lock])],
                environment={**os.environ, **environment_of(self.settings), **own, **(extra or {})},
                output=log,
            )

    def stop(self, name: str) -> None:
        """Ask a child to end and wait for it; it is killed when it takes too long."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def wait_until_ready(self) -> None:
        """Return when the API says that it can sell. Raises NotStarted when a child has ended, or after a while."""
        deadline = time.monotonic() + READY_SECONDS
        reason = "no answer"
        while time.monotonic() < deadline:
            self.check()
            ready, reason = _ready(self.base_url)
            if ready:
                return
            time.sleep(POLL_SECONDS)
        raise NotStarted(f"the API is not ready after {READY_SECONDS:g} s: {reason}", self._tail("api"))

    def check(self) -> None:
        """Raise NotStarted when something that the shop consists of has ended, with its name and the end of its log."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise NotStarted(f"{name} ended with status {process.returncode}", self._tail(name))
        for server in self.servers.all if self.servers else ():
            if not server.running:
                raise NotStarted(f"{type(server).__name__} has ended; its log is {server.log}")

    def _tail(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines() if self.log(name).exists() else []
        return "\n".join(lines[-15:])


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a child these settings; its metrics go to the parent's page."""
    variables = {
        f"SHOP_{name.upper()}": _variable(value) for name, value in settings.model_dump(exclude_none=True).items()
    }
    if MULTIPROCESS_VARIABLE in os.environ:
        variables["SHOP_METRICS_PORT"] = "0"
    return variables


def worker_urls(logins: Logins, servers: EmbeddedServers) -> dict[str, str]:
    """The variables by which a worker reaches embedded servers as its own user."""
    urls = {"SHOP_REDIS_URL": servers.redis_url, "SHOP_CACHE_REDIS_URL": servers.side_url}
    return {name: logins.worker_url(url) for name, url in urls.items() if url is not None}


def _variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list) else str(value)


def _ready(base_url: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"{base_url}/readyz", timeout=2) as answer:  # noqa: S310 - our own child
            return answer.status == 200, ""
    except urllib.error.HTTPError as error:
        return False, error.read().decode(errors="replace")
    except OSError as error:
        return False, str(error)
