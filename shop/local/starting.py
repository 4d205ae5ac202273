"""Everything that a local shop is, started in order in a directory that nobody else uses, and stopped in order."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from shop.embedded import EmbeddedServers, ValkeyServer, embedded_servers
from shop.embedded.process import locked
from shop.listening_sockets import port_of
from shop.local.parts import LocalShop, NotStarted, worker_urls
from shop.local.ports import PROVIDER_HOST, listen_as_before, listen_somewhere, show_metrics
from shop.metrics import prepare_multiprocess
from shop.migrating import migrate
from shop.redis_users import DEFAULT_USER_OFF, Logins
from shop.settings import SECRET_BYTES_MIN, Settings
from shop.settings.addresses import http_url

SECRET_BYTES = 32
SERVER_URLS = {"database_url", "redis_url"}

log = structlog.get_logger(__name__)


@contextmanager
def local_shop(
    settings: Settings,
    directory: Path | None,
    *,
    api_processes: int = 1,
    durable: bool = True,
    provider: Sequence[str] = (),
    notice: Callable[[str], object] = log.warning,
) -> Iterator[LocalShop]:
    """Start everything, wait until it sells, and stop it in order: API, worker, payment provider, Valkeys, Postgres.

    `provider` are more arguments for the sandbox provider, such as its faults. `notice` is told in a line what is other
    than asked for, such as a port.

    The data lives in `directory`, which is locked meanwhile, or in a temporary one that goes with the shop. With a
    directory, servers that the settings name are used instead of embedded ones. Raises ServerUnavailable, NotStarted,
    or OSError when a file cannot be written.
    """
    with _locked(directory) as lock, _servers(settings, directory, durable=durable) as servers, ExitStack() as sockets:
        own = settings.model_copy(
            update={
                **servers.urls,
                "environment": "development",
                "secret_key": type(settings.secret_key)(secret_of(servers.home, notice)),
                "worker_metrics_port": 0,
                "api_processes": api_processes,
            }
        )
        migrate(own)
        prepare_multiprocess(servers.home / "metrics")
        # The sockets are ours from here on, whatever becomes of the children, so that nobody else answers for them.
        api = listen_somewhere("API", own.api_host, own.api_port, notice, processes=api_processes)
        pays = listen_as_before(servers.home / "provider.port", notice)
        for listener in (*api, *pays):
            sockets.enter_context(listener)
        ports = {
            "api_port": port_of(api[0]),
            "metrics_port": show_metrics(own, notice),
            "payment_provider_url": http_url(PROVIDER_HOST, port_of(pays[0])),
        }
        shop = LocalShop(own.model_copy(update=ports), servers.home, servers.worker_urls, servers.embedded, lock)
        hook = f"{shop.base_url}/v1/payments/webhook"
        books = str(servers.home / "provider.sqlite")
        try:
            shop.start("provider", "sandbox-provider", "--webhook-url", hook, "--data", books, *provider, sockets=pays)
            shop.start("worker", "worker")
            shop.start("api", "api", sockets=api)
            shop.wait_until_ready()
            yield shop
        finally:
            shop.stop("api")
            shop.stop("worker")
            shop.stop("provider")


@dataclass(frozen=True)
class _Servers:
    """Where the shop's files are, and its servers: those that the settings name, or embedded ones.

    `worker_urls` are variables of the worker's: an embedded Valkey lets in the shop's two users alone.
    """

    home: Path
    urls: Mapping[str, str | None] = field(default_factory=dict)
    worker_urls: Mapping[str, str] = field(default_factory=dict)
    embedded: EmbeddedServers | None = None


@contextmanager
def _locked(directory: Path | None) -> Iterator[int | None]:
    """Whoever uses a directory has its lock, and every child of theirs, whatever servers they use."""
    if directory is None:
        yield None
        return
    with locked(directory) as lock:
        yield lock


@contextmanager
def _servers(settings: Settings, directory: Path | None, *, durable: bool) -> Iterator[_Servers]:
    named = SERVER_URLS & settings.model_fields_set
    if directory is not None and named and not _are_its_own(settings, directory):
        if named != SERVER_URLS:
            raise NotStarted("set both SHOP_DATABASE_URL and SHOP_REDIS_URL to use servers of your own, or neither")
        yield _Servers(directory)
        return
    logins = Logins.random()
    users = [DEFAULT_USER_OFF, *logins.lines]
    with embedded_servers(directory, durable=durable, redis_users=users, side=True) as servers:
        urls = {
            "database_url": servers.database_url,
            "redis_url": logins.api_url(servers.redis_url),
            "cache_redis_url": logins.api_url(servers.side_url) if servers.side_url else None,
        }
        yield _Servers(servers.valkey.directory.parent, urls, worker_urls(logins, servers), servers)


def _are_its_own(settings: Settings, directory: Path) -> bool:
    """Whether the settings name the embedded servers of this directory: somebody has read its `environment`."""
    return urlsplit(settings.redis_url).path == urlsplit(ValkeyServer(directory).url).path


def secret_of(home: Path, notice: Callable[[str], object]) -> str:
    """The secret of this directory's shop, so that tokens stay valid over a restart; a new one if it is no secret.

    Raises OSError when its file cannot be read or written.
    """
    file, found = home / "secret", ""
    with suppress(FileNotFoundError):
        found = file.read_text("ascii", errors="replace").strip()
    if len(found) >= SECRET_BYTES_MIN and found.isprintable() and found.isascii():
        return found
    if file.exists():
        notice(f"{file} was no secret: there is a new one, and older tokens and receipts are void")
    new = home / "secret.new"
    new.touch(mode=0o600)
    new.write_text(secrets.token_urlsafe(SECRET_BYTES))
    new.rename(file)
    return file.read_text()
