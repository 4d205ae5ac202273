"""The database's server: a PostgreSQL with one user and one database, both named `shop`."""

import os
import shutil
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, Signals

from shop.embedded.binaries import PostgresBinaries, find_postgres
from shop.embedded.process import STOP_TIMEOUT_SECONDS, ServerProcess, SocketDirectory, launch, locked
from shop.embedded.unavailable import ServerUnavailable

PORT = 5432  # of a socket it is only the end of the file's name
SOCKET_NAME = f".s.PGSQL.{PORT}"
ANSWER_TIMEOUT_SECONDS = 1.0
PROTOCOL_VERSION_3 = 196608


class PostgresServer:
    """A PostgreSQL on a socket, with its data in `directory/name`. User and database are `shop`; there is no password.

    `durable=False` is for tests that make many databases: it survives kill -9, but not a power cut. Whatever way the
    server ends, `start` works again, on the same data and at the same URL. The calls block and are not safe for several
    threads at once.
    """

    def __init__(self, directory: Path, *, name: str = "postgres", durable: bool = True) -> None:
        self.directory = Path(directory).resolve() / name
        self.log = self.directory / "postgres.log"
        self.durable = durable
        self._data = self.directory / "data"
        self._sockets = SocketDirectory(self.directory, SOCKET_NAME)
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """For SQLAlchemy with asyncpg. It is the same before, during and after a run."""
        return f"postgresql+asyncpg://shop@/shop?host={self._sockets.path}&port={PORT}"

    @property
    def pid(self) -> int:
        """The process id of the postmaster. Raises ServerUnavailable when it was not started."""
        if self._process is None:
            raise ServerUnavailable("PostgreSQL was not started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start it and return when it answers; a server that runs is left alone. Raises ServerUnavailable.

        The first start in a directory also makes the cluster and the database, which takes a second or two.
        """
        if self.running:
            return
        binaries = find_postgres()
        with locked(self.directory) as lock:
            if not self._data.exists():
                self._make_cluster(binaries, lock)
            self._sockets.make()
            program: list[str | Path] = [binaries.postgres, "-D", self._data, *self._options()]
            # SIGQUIT, because an orderly end waits for clients which may be hung; the log of writes puts all in order.
            self._process = self._launch("PostgreSQL", program, lock=lock, death_signal=SIGQUIT)
        try:
            self._process.wait_until(self._answers)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """Disconnect the clients and let it end in order; if need be at once, then by force, each after `timeout`."""
        if self._process:
            self._process.stop(SIGINT, SIGQUIT, timeout=timeout)
        self._sockets.remove()

    def kill(self) -> None:
        """End it with all its processes at once, as a power cut does."""
        if self._process:
            self._process.kill()
        self._sockets.remove()

    def _make_cluster(self, binaries: PostgresBinaries, lock: int) -> None:
        """Make cluster and database under another name first: a start that was cut short leaves nothing half made."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        sync = [] if self.durable else ["--no-sync"]
        options = ["--username=shop", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions", *sync]
        initdb: list[str | Path] = [binaries.initdb, "-D", unfinished, *options]
        self._launch("initdb", initdb, lock=lock, death_signal=SIGKILL).wait_for_success()

        script = self.directory / "create_database.sql"
        script.write_text("CREATE DATABASE shop;\n")
        single: list[str | Path] = [
            binaries.postgres,
            "--single",
            "-D",
            unfinished,
            "-c",
            f"fsync={_on(self.durable)}",
            "template1",
        ]
        self._launch("postgres --single", single, lock=lock, death_signal=SIGKILL, script=script).wait_for_success()
        script.unlink()
        unfinished.rename(self._data)

    def _launch(
        self, name: str, program: Sequence[str | Path], *, lock: int, death_signal: Signals, script: Path | None = None
    ) -> ServerProcess:
        own = [path for path in (self.directory, self._sockets.path) if path.exists()]
        return launch(
            name,
            program,
            lock=lock,
            log=self.log,
            death_signal=death_signal,
            ordinary_user=True,
            own=own,
            script=script,
        )

    def _options(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self._sockets.path),
            "unix_socket_permissions": "0700",
            "shared_buffers": "128MB",
            "max_connections": "200",
            "synchronous_commit": "on",
            "fsync": _on(self.durable),
            "full_page_writes": _on(self.durable),
            # A young cluster has no old segments to use again; every commit would wait 100 ms for a new one of zeros.
            "wal_init_zero": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def _answers(self) -> bool:
        """Whether it lets the user in; a server that still recovers refuses with an error."""
        parameters = struct.pack("!i", PROTOCOL_VERSION_3) + b"user\0shop\0database\0shop\0\0"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_SECONDS)
            try:
                connection.connect(os.fspath(self._sockets.path / SOCKET_NAME))
                connection.sendall(struct.pack("!i", len(parameters) + 4) + parameters)
                welcome = connection.recv(1) == b"R"
                connection.sendall(b"X\0\0\0\4")
            except OSError:
                return False
            return welcome


def _on(switch: bool) -> str:
    return "on" if switch else "off"
