"""The append-only file of a Valkey that was killed, as a power cut leaves it; and the thread that syncs it."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shop.embedded import ValkeyServer

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000  # waitpid: threads too
SYNCING_THREAD = "bio_aof"


def newest_part(valkey: ValkeyServer) -> Path:
    """The file that it appends to."""
    return max((valkey.directory / "appendonlydir").glob("*.incr.aof"), key=lambda file: file.stat().st_mtime_ns)


def size_of(valkey: ValkeyServer) -> int:
    """How much the server has written so far: what a power cut leaves of it is what the disk had synced."""
    return newest_part(valkey).stat().st_size


def end_of_last(valkey: ValkeyServer, command: bytes) -> int:
    """Where the name of the last command of this kind ends in what was written: its arguments come behind it."""
    return newest_part(valkey).read_bytes().rindex(command) + len(command)


def cut_power(valkey: ValkeyServer, *, left: int) -> None:
    """Kill the server and leave so many bytes of its file; a kill alone would leave all that the kernel had."""
    valkey.kill()
    os.truncate(newest_part(valkey), left)


@contextmanager
def killed_on_a_hanging_disk(valkey: ValkeyServer) -> Iterator[None]:
    """Within it the thread that syncs the file in the background does not come to an end; then the server is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    thread = _syncing_thread(valkey.pid)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), "the thread cannot be stopped")
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        # The server is not gone before its thread is, and only the one who stopped the thread hears of that.
        os.kill(valkey.pid, signal.SIGKILL)
        os.waitpid(thread, WALL)
        valkey.kill()


def _syncing_thread(pid: int) -> int:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(SYNCING_THREAD):
            return int(task.name)
    raise AssertionError("the server has no thread that syncs its file")
