"""What processes cost, by the operating system's own account: CPU time, memory, system calls. It works on Linux."""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# From <linux/posix-timers.h>: the clock of a process's CPU time, all its threads included, in nanoseconds.
CPUCLOCK_SCHED = 2
IO_CALLS = re.compile(r"^sysc[rw]: (\d+)$", re.MULTILINE)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time, user and system, that these processes have used; one that is gone counts as nothing."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def io_calls(pids: Iterable[int]) -> int | None:
    """The system calls of these processes that read or write, so far; None where the system does not count them.

    Waits for events (`epoll_wait`) and syncs are not among them, nor `recv` and `send`; libuv and Redis use neither.
    """
    try:
        accounts = [Path(f"/proc/{pid}/io").read_text() for pid in pids]
    except OSError:
        return None
    return sum(int(count) for account in accounts for count in IO_CALLS.findall(account))


def rss_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes have in use, their shared pages included."""
    return sum(map(_rss_bytes, pids))


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """The processes that this one has made; none when it is gone."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, tasks.read_text().split())
    return found


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        found += children(each)
    return found
