"""A pool of processes that do next to nothing.

`python -m tests.server.processes.small_pool WORK DIRECTORY STOP_SECONDS_MAX`: each process that serves leaves a file in
the directory, named by its id. Ten heartbeats are a second.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from shop import processes
from shop.processes import ParentPipe, ProcessPool

PROCESSES = 2
HEARTBEAT_SECONDS = 0.1


def serve(parent_pipe: ParentPipe, directory: Path, *, forever: bool = False, heartbeats: bool = True) -> None:
    """Serve until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if forever else stopping.set())
    parent_pipe.serving()
    (directory / str(os.getpid())).touch()
    while not stopping.wait(HEARTBEAT_SECONDS):
        if heartbeats:
            parent_pipe.serving()
    parent_pipe.leaving()


def never_end(parent_pipe: ParentPipe, directory: Path) -> None:
    """Take no notice of SIGTERM."""
    serve(parent_pipe, directory, forever=True)


def leave_slowly(parent_pipe: ParentPipe, directory: Path) -> None:
    """Serve until SIGTERM, and end at the next one."""
    serve(parent_pipe, directory)
    signal.pause()


def get_stuck(parent_pipe: ParentPipe, directory: Path) -> None:
    """The first process of all serves, and is then silent."""
    serve(parent_pipe, directory, heartbeats=not is_first(directory))


def fail(parent_pipe: ParentPipe, directory: Path) -> None:
    """The first process serves, the others cannot start."""
    if is_first(directory):
        serve(parent_pipe, directory)
    sys.exit(1)


def fail_later(parent_pipe: ParentPipe, directory: Path) -> None:
    """No process can start once there is a file `broken`."""
    if is_broken(directory):
        sys.exit(1)
    serve(parent_pipe, directory)


def hang_later(parent_pipe: ParentPipe, directory: Path) -> None:
    """No process comes to serve once there is a file `broken`."""
    if is_broken(directory):
        signal.pause()
    serve(parent_pipe, directory)


def is_broken(directory: Path) -> bool:
    """Whether there is a file `broken`; then this leaves a file `tried`."""
    broken = (directory / "broken").exists()
    if broken:
        (directory / "tried").touch()
    return broken


def is_first(directory: Path) -> bool:
    """Whether no process has asked before."""
    try:
        (directory / "first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


WORKS = {work.__name__: work for work in (serve, never_end, leave_slowly, get_stuck, fail, fail_later, hang_later)}

if __name__ == "__main__":
    processes.HEARTBEAT_SECONDS = HEARTBEAT_SECONDS
    work, home, stop_seconds_max = sys.argv[1:]
    pool = ProcessPool(
        WORKS[work],
        [(Path(home),)] * PROCESSES,
        preload=("shop.processes",),
        stop_seconds_max=float(stop_seconds_max),
        before_stop=(Path(home) / "stopping").touch,
    )
    sys.exit(pool.run())
