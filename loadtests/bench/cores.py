"""Which process runs on which core, so that those that are compared share nothing but their servers."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Which core the API under test has for itself, and which one everything else shares."""

    api: int
    rest: int

    @classmethod
    def chosen(cls) -> "Cores":
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[min(1, len(allowed) - 1)])

    @property
    def apart(self) -> bool:
        return self.api != self.rest


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Within it this thread, and what it starts, is on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> None:
    """The overload rounds need thousands of sockets, here and in the API."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
