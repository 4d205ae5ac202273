"""The ledger's server: a Valkey, or a Redis, that keeps what it promised and never evicts; and the side server."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

from shop.embedded.binaries import find_valkey
from shop.embedded.process import STOP_TIMEOUT_SECONDS, ServerProcess, SocketDirectory, launch, locked
from shop.embedded.unavailable import ServerUnavailable

SOCKET_NAME = "valkey.sock"
ANSWER_TIMEOUT_SECONDS = 1.0
SIDE = "side"
SIDE_MEMORY = "64mb"


class ValkeyServer:
    """A Valkey on a socket, with its data in `directory/name`; several names make several servers.

    `extra` is added to the server's command line, such as `("--maxmemory", "64mb")`. `users` are lines of an ACL file;
    without them, and unless they say otherwise, whoever reaches the socket may do everything. Whatever way the server
    ends, `start` works again, on the same data and at the same URL. The calls block and are not safe for several
    threads at once.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "valkey",
        appendfsync: str = "always",
        appendonly: bool = True,
        extra: Sequence[str] = (),
        users: Sequence[str] = (),
    ) -> None:
        self.directory = Path(directory).resolve() / name
        self.log = self.directory / "valkey.log"
        self._appendfsync = appendfsync
        self._appendonly = appendonly
        self._extra = extra
        self._users = users
        self._users_file = self.directory / "users.acl"
        self._sockets = SocketDirectory(self.directory, SOCKET_NAME)
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """For redis-py. It is the same before, during and after a run."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The process id of the server. Raises ServerUnavailable when it was not started."""
        if self._process is None:
            raise ServerUnavailable("Valkey was not started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start it and return when it answers; a server that runs is left alone. Raises ServerUnavailable."""
        if self.running:
            return
        binary = find_valkey()
        with locked(self.directory) as lock:
            self._sockets.make()
            self._write_users()
            # Its data is safe at every reply, so there is nothing to put in order when the parent was killed.
            program: list[str | Path] = [binary, *self._options()]
            self._process = launch("Valkey", program, lock=lock, log=self.log, death_signal=SIGKILL)
        try:
            self._process.wait_until(self._answers)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """Let it end in order; after `timeout` seconds it is killed."""
        if self._process:
            self._process.stop(SIGTERM, timeout=timeout)
        self._sockets.remove()

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self._process:
            self._process.kill()
        self._sockets.remove()

    @property
    def _socket(self) -> Path:
        return self._sockets.path / SOCKET_NAME

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "protected-mode": "yes",
            "dir": str(self.directory),
            "daemonize": "no",
            "logfile": "",
            "loglevel": "notice",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": self._appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction",
        }
        if self._users:
            options["aclfile"] = str(self._users_file)
        return [part for name, value in options.items() for part in (f"--{name}", value)] + list(self._extra)

    def _write_users(self) -> None:
        if self._users:
            self._users_file.touch(mode=0o600)
            self._users_file.write_text("".join(f"{line}\n" for line in self._users))

    def _answers(self) -> bool:
        """Whether it answers PING with PONG; while it reads its data, it says that it is loading."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT_SECONDS)
            try:
                connection.connect(os.fspath(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def side_server(directory: Path, *, users: Sequence[str] = ()) -> ValkeyServer:
    """The server of what may be lost: it writes nothing to the disk, and evicts what was used least recently."""
    bounds = ("--maxmemory", SIDE_MEMORY, "--maxmemory-policy", "allkeys-lru")
    return ValkeyServer(directory, name=SIDE, appendonly=False, extra=bounds, users=users)
