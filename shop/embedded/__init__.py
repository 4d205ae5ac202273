"""Real Valkey and PostgreSQL on this machine, for the demo, development and tests.

Nothing listens on TCP: both are reached through sockets in private directories. A server never outlives the process
that started it, however that process ends. This package knows nothing of the shop but what its servers must promise.

binaries    where the servers' programs are
process     one program as a child: its directory's lock, its log, its start and its end
launch      the small program that gives up root and ties the server's life to its parent's
valkey      the ledger's server, and the side server
postgres    the database's server
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shop.embedded.postgres import PostgresServer
from shop.embedded.unavailable import ServerUnavailable
from shop.embedded.valkey import ValkeyServer, side_server

__all__ = ["EmbeddedServers", "PostgresServer", "ServerUnavailable", "ValkeyServer", "embedded_servers"]


@dataclass(frozen=True)
class EmbeddedServers:
    """The servers of one directory and the URLs that `Settings` takes; `side` is there if it was asked for."""

    valkey: ValkeyServer
    postgres: PostgresServer
    side: ValkeyServer | None = None

    @property
    def database_url(self) -> str:
        """For SQLAlchemy with asyncpg."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """For redis-py."""
        return self.valkey.url

    @property
    def side_url(self) -> str | None:
        """For redis-py; None if what may be lost is kept beside the ledger."""
        return None if self.side is None else self.side.url

    @property
    def all(self) -> list[ValkeyServer | PostgresServer]:
        """Every server, in the order in which they are stopped: the ledger is drained into Postgres."""
        return [*([] if self.side is None else [self.side]), self.valkey, self.postgres]


@contextmanager
def embedded_servers(
    directory: Path | None = None, *, durable: bool = True, redis_users: Sequence[str] = (), side: bool = False
) -> Iterator[EmbeddedServers]:
    """The servers, ready to answer; stopped at the end, Valkey first, because its ledger is drained into Postgres.

    What was stored in `directory` is found again by the next call; without a directory there is a temporary one, which
    is removed at the end. `durable=False` is for tests: see `PostgresServer`. `redis_users` are lines of an ACL file.
    With `side` there is a second Valkey for what may be lost. Raises ServerUnavailable.
    """
    with _directory(directory) as home, ThreadPoolExecutor(max_workers=3) as pool, ExitStack() as running:
        servers = EmbeddedServers(
            ValkeyServer(home, users=redis_users),
            PostgresServer(home, durable=durable),
            side_server(home, users=redis_users) if side else None,
        )
        starts = [pool.submit(server.start) for server in servers.all]
        for server in reversed(servers.all):
            running.callback(server.stop)
        try:
            for start in starts:
                start.result()
            yield servers
        finally:
            # After Ctrl-C a start may still be under way, and its server could not be stopped yet.
            wait(starts)


@contextmanager
def _directory(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    temporary = Path(tempfile.mkdtemp(prefix="shop-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
