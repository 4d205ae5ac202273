"""One server program as a child: its directory and the lock on it, its log, its start and its end.

The lock of a directory is handed down to the server, so it lasts exactly as long as the last process that may write
there, even when whoever started the server was killed.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from shop.embedded.unavailable import ServerUnavailable

LAUNCHER = Path(__file__).with_name("launch.py")
WATCHES_PARENT = sys.platform != "linux"  # elsewhere the kernel cannot tie a child's life to its parent's

# The bound of a socket's path is 108 bytes on Linux and 104 on macOS, with the final NUL.
SOCKET_PATH_BYTES_MAX = 100
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
# A directory is not free at once when a server was killed, or its owner: the rest of them need a moment to notice.
LOCK_WAIT_SECONDS = 0.5
LOCK_WAIT_AFTER_OWNER_SECONDS = 10.0
POLL_SECONDS = 0.01
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES_MAX = 8192


_Child: TypeAlias = "subprocess.Popen[bytes]"


class ServerProcess:
    """A server program that runs, or has run, until `stop` or `kill`, or until this process ends in whatever way."""

    def __init__(self, name: str, child: _Child, log: Path, log_start: int) -> None:
        self.name = name
        self._child = child
        self._log = log
        self._log_start = log_start

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = START_TIMEOUT_SECONDS) -> None:
        """Return when the server is ready. Raises ServerUnavailable when it has ended, or after `timeout` seconds."""
        for _ in ticks(timeout):
            if not self.running:
                raise self._unavailable(f"ended with status {self._child.returncode} instead of starting")
            if ready():
                return
        raise self._unavailable(f"was not ready after {timeout:g} s")

    def wait_for_success(self, *, timeout: float = START_TIMEOUT_SECONDS) -> None:
        """Wait for a program that does one thing and ends. Raises ServerUnavailable when it fails."""
        try:
            status = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._unavailable(f"was not done after {timeout:g} s") from None
        finally:
            self.kill()
        if status != 0:
            raise self._unavailable(f"failed with status {status}")

    def stop(self, *signals: signal.Signals, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """Ask it to end, each signal with its own `timeout` seconds; what is then left is killed."""
        for each in signals:
            if not self.running:
                return
            self._child.send_signal(each)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once, with every process that it made, as a power cut would."""
        children = _descendants(self.pid) if self.running else []
        self._child.kill()
        self._child.wait()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _unavailable(self, problem: str) -> ServerUnavailable:
        return ServerUnavailable(f"{self.name} {problem}.", log_tail=_tail(self._log, self._log_start))


def launch(
    name: str,
    program: Sequence[str | Path],
    *,
    lock: int,
    log: Path,
    death_signal: signal.Signals,
    ordinary_user: bool = False,
    own: Iterable[Path] = (),
    script: Path | None = None,
) -> ServerProcess:
    """Start a program in a session of its own, out of reach of the terminal's Ctrl-C; see `launch.py`.

    `lock` is the directory's, `death_signal` is what the program gets when this process is gone, `ordinary_user` is for
    one that refuses root, `own` names the directories that it must own, `script` is what it reads from standard input.
    """
    command: list[str | Path] = [sys.executable, "-I", "-S", LAUNCHER]
    command += [f"--parent={os.getpid()}", f"--death-signal={int(death_signal)}"]
    command += ["--watch"] if WATCHES_PARENT else []
    command += ["--ordinary-user", *(f"--own={path}" for path in own)] if ordinary_user else []

    def start() -> _Child:
        with log.open("ab") as output, (script or Path(os.devnull)).open("rb") as source:
            return subprocess.Popen(  # noqa: S603 - the program comes from `binaries`
                [*command, "--", *program],
                stdin=source,
                stdout=output,
                stderr=output,
                env=_environment(),
                pass_fds=[lock],
                start_new_session=True,
            )

    log_start = log.stat().st_size if log.exists() else 0
    return ServerProcess(name, _parent_thread(os.getpid()).run(start), log, log_start)


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Make a private directory and lock it; whoever inherits the yielded file keeps the lock.

    Raises ServerUnavailable when somebody alive uses the directory, or when it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        opened = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServerUnavailable(f"the directory {directory} cannot be used: {error.strerror}", advice="") from error
    # A process with its standard input closed would get number 0, which its child needs for its own.
    lock = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(opened)
    try:
        _lock_directory(lock, directory)
        yield lock
    finally:
        os.close(lock)


def _lock_directory(lock: int, directory: Path) -> None:
    owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
    for _ in ticks(LOCK_WAIT_SECONDS if _lives(owner) else LOCK_WAIT_AFTER_OWNER_SECONDS):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(lock).st_nlink:
                break  # Whoever had it has deleted the directory.
            os.truncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            return
    raise ServerUnavailable(
        f"the directory {directory} is in use by the servers of process {owner or '(unknown)'}", advice=""
    )


def _lives(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class SocketDirectory:
    """Where a server's socket is: in the server's own directory, or in a short one when that path will not do.

    It will not do when it is longer than the system allows, or when it holds what has a meaning in a URL. The short one
    is named after the long one, so a URL stays right over a restart and nothing piles up after a kill.
    """

    def __init__(self, home: Path, socket_name: str) -> None:
        self._home = home
        short = f"shop-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
        for self.path in (home, Path(tempfile.gettempdir(), short), Path("/tmp", short)):  # noqa: S108 - see `make`
            if PLAIN_PATH.fullmatch(str(self.path)) and len(str(self.path / socket_name)) <= SOCKET_PATH_BYTES_MAX:
                break

    def make(self) -> None:
        """Make the short directory anew: what is found there may be somebody else's. Raises ServerUnavailable."""
        if self.path == self._home:
            return
        self.remove()
        try:
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise ServerUnavailable(f"The sockets' directory {self.path} cannot be made: {error.strerror}.") from error

    def remove(self) -> None:
        """Remove the short directory."""
        if self.path != self._home:
            shutil.rmtree(self.path, ignore_errors=True)


def ticks(seconds: float) -> Iterator[float]:
    """Time, again and again until `seconds` are over, with a short pause in between."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        yield now
        time.sleep(POLL_SECONDS)


class _ParentThread:
    """The thread that makes every child.

    Linux sends the death signal when the *thread* that made a process ends; this one lasts as long as this process, and
    so a server may be started from a thread that does not.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], _Child], Future[_Child]]] = SimpleQueue()
        threading.Thread(target=self._work, name="embedded-servers", daemon=True).start()

    def run(self, job: Callable[[], _Child]) -> _Child:
        future: Future[_Child] = Future()
        self._jobs.put((job, future))
        return future.result()

    def _work(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it is raised where the job came from
                future.set_exception(error)


@functools.lru_cache(maxsize=2)
def _parent_thread(process: int) -> _ParentThread:
    """One for each process, because a fork does not take threads along."""
    return _ParentThread()


def _environment() -> dict[str, str]:
    """Little enough that no setting of this user's changes a server: PGPORT, PGDATA, LC_ALL, TZ."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _tail(log: Path, start: int) -> str:
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - LOG_TAIL_BYTES_MAX))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    return ""


def _descendants(process: int) -> list[int]:
    """The children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found = [process]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def _processes() -> Iterator[tuple[int, int]]:
    """Every process with its parent, from /proc, or from `ps` where there is none."""
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # The name in the second field may hold spaces and brackets; the parent is the second field after it.
                yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        return
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    for line in listing.stdout.splitlines():
        pid, parent = line.split()
        yield int(pid), int(parent)
