"""A whole shop on this machine: the embedded servers, an API and a worker, each a process of its own.

Everything is a child that does not outlive this process, and nothing listens on TCP but the API and the metrics.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from shop.embedded import embedded_servers
from shop.metrics import MULTIPROCESS_VARIABLE, prepare_multiprocess, serve_metrics
from shop.migrating import migrate
from shop.processes import run_beside
from shop.redis_users import DEFAULT_USER_OFF, Logins
from shop.settings import Settings

READY_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
SECRET_BYTES = 32
PROVIDER_HOST, PROVIDER_PORT = "127.0.0.1", 8900
SERVER_URLS = {"database_url", "redis_url"}


class NotStarted(Exception):
    """A process of the local shop did not come up, or has ended; `details` is the tail of its log."""

    def __init__(self, problem: str, details: str = "") -> None:
        super().__init__("\n".join(filter(None, (problem, details))))
        self.problem, self.details = problem, details


@dataclass
class LocalShop:
    """The running shop: its settings, its address, and the processes that may be stopped one by one.

    A worker has the same settings, but for the URL of its own user of Redis if there is one.
    """

    settings: Settings
    directory: Path
    worker_redis_url: str | None = None
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        return f"http://{self.settings.api_host}:{self.settings.api_port}"

    @property
    def provider_url(self) -> str:
        return self.settings.payment_provider_url

    @property
    def metrics_url(self) -> str:
        return f"http://{self.settings.metrics_host}:{self.settings.metrics_port}/metrics"

    def start(self, name: str, *command: str, extra: Mapping[str, str] | None = None) -> None:
        """Run `shop COMMAND…` as a child whose output goes to `<name>.log`."""
        own = {"SHOP_REDIS_URL": self.worker_redis_url} if command[0] == "worker" and self.worker_redis_url else {}
        with self.log(name).open("ab") as log:
            self.processes[name] = run_beside(
                [sys.executable, "-m", "shop", *command],
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
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise NotStarted(f"{name} ended with status {process.returncode}", self._tail(name))
            ready, reason = _ready(self.base_url)
            if ready:
                return
            time.sleep(POLL_SECONDS)
        raise NotStarted(f"the API is not ready after {READY_SECONDS:g} s: {reason}", self._tail("api"))

    def _tail(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines() if self.log(name).exists() else []
        return "\n".join(lines[-15:])


@contextmanager
def local_shop(
    settings: Settings,
    directory: Path | None,
    *,
    api_processes: int = 1,
    durable: bool = True,
    provider: Sequence[str] = (),
) -> Iterator[LocalShop]:
    """Start everything, wait until it sells, and stop it in order: API, worker, payment provider, Valkey, Postgres.

    `provider` are more arguments for the sandbox provider, such as its faults.

    The data lives in `directory`, or in a temporary one that goes with the shop. With a directory, servers that the
    settings name are used instead of embedded ones. Raises ServerUnavailable or NotStarted.
    """
    with _servers(settings, directory, durable=durable) as (home, urls, worker_redis_url):
        own = settings.model_copy(
            update={
                **urls,
                "environment": "development",
                "secret_key": type(settings.secret_key)(_secret(home)),
                "worker_metrics_port": 0,
                "api_processes": api_processes,
            }
        )
        migrate(own)
        prepare_multiprocess(home / "metrics")
        # As late as possible: another shop may be looking for ports as well.
        ports: dict[str, object] = {
            "api_port": free_port(own.api_host, own.api_port),
            "metrics_port": free_port(own.metrics_host, own.metrics_port),
        }
        provider_port = free_port(PROVIDER_HOST, PROVIDER_PORT)
        ports["payment_provider_url"] = f"http://{PROVIDER_HOST}:{provider_port}"
        own = own.model_copy(update=ports)
        serve_metrics(own.metrics_host, own.metrics_port)
        shop = LocalShop(own, home, worker_redis_url)
        hook = f"{shop.base_url}/v1/payments/webhook"
        books = str(home / "provider.sqlite")
        try:
            shop.start(
                "provider", "sandbox-provider", "--host", PROVIDER_HOST, "--port", str(provider_port),
                "--webhook-url", hook, "--data", books, *provider,
            )  # fmt: skip
            shop.start("worker", "worker")
            shop.start("api", "api")
            shop.wait_until_ready()
            yield shop
        finally:
            shop.stop("api")
            shop.stop("worker")
            shop.stop("provider")


@contextmanager
def _servers(
    settings: Settings, directory: Path | None, *, durable: bool
) -> Iterator[tuple[Path, dict[str, str | None], str | None]]:
    """Where the shop's files are, and the servers' URLs: those that the settings name, or embedded ones.

    The third is the ledger's URL as the worker has it. An embedded Valkey lets in nobody but the shop's two users.
    """
    named = SERVER_URLS & settings.model_fields_set
    if directory is not None and named == SERVER_URLS:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory, {}, None
        return
    if directory is not None and named:
        raise NotStarted("Set both SHOP_DATABASE_URL and SHOP_REDIS_URL to use servers of your own, or neither.")
    logins = Logins.random()
    with embedded_servers(directory, durable=durable, redis_users=[DEFAULT_USER_OFF, *logins.lines]) as servers:
        urls = {
            "database_url": servers.database_url,
            "redis_url": logins.api_url(servers.redis_url),
            "cache_redis_url": None,
        }
        yield servers.valkey.directory.parent, urls, logins.worker_url(servers.redis_url)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a child these settings; its metrics go to the parent's page."""
    variables = {
        f"SHOP_{name.upper()}": _variable(value) for name, value in settings.model_dump(exclude_none=True).items()
    }
    if MULTIPROCESS_VARIABLE in os.environ:
        variables["SHOP_METRICS_PORT"] = "0"
    return variables


def _variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list) else str(value)


def free_port(host: str, wanted: int) -> int:
    """The wanted port if it is free, else one that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise NotStarted(f"no port is free on {host}")


def _ready(base_url: str) -> tuple[bool, str]:
    try:
        with urllib.request.urlopen(f"{base_url}/readyz", timeout=2) as answer:  # noqa: S310 - our own child
            return answer.status == 200, ""
    except urllib.error.HTTPError as error:
        return False, error.read().decode(errors="replace")
    except OSError as error:
        return False, str(error)


def _secret(home: Path) -> str:
    """The secret of this directory's shop, so that tokens stay valid over a restart."""
    file = home / "secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(SECRET_BYTES))
    return file.read_text()
