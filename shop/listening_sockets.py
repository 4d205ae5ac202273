"""Listening sockets: bound by whoever answers for the port, before a process is started that serves at them.

A child that got its socket cannot meet another shop at its port, and a port that is taken is found at once.
"""

import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

BACKLOG = 4096


def listen(host: str, port: int, *, processes: int = 1) -> list[socket.socket]:
    """A listener for each process, or one for all where the kernel does not spread. Raises OSError.

    The first is bound alone, as that of every shop is, so that two shops never share a port (SO_REUSEPORT would let
    them, in silence); only then it shares its port with the others.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    first = _bound(family, address)
    try:
        if processes > 1 and sys.platform == "linux":
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            others = [_bound(family, first.getsockname(), socket.SO_REUSEPORT) for _ in range(processes - 1)]
        else:
            others = []
        for listener in (first, *others):
            listener.listen(BACKLOG)
    except OSError:
        first.close()
        raise
    return [first, *others]


def inherited(numbers: Iterable[int]) -> list[socket.socket]:
    """The listeners that this process was started with. Raises OSError when a number is none."""
    listeners = [socket.socket(fileno=number) for number in numbers]
    for listener in listeners:
        listener.set_inheritable(False)
        listener.setblocking(False)
    return listeners


def free_port(host: str, wanted: int) -> int:
    """The wanted port if it is free, else one that is, for a process that will bind it itself. Raises OSError."""
    with suppress(OSError), listen(host, wanted)[0] as probe:
        return port_of(probe)
    with listen(host, 0)[0] as probe:
        return port_of(probe)


def port_of(listener: socket.socket) -> int:
    """The port of a listener."""
    port: int = listener.getsockname()[1]
    return port


def _bound(family: int, address: Any, *options: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, *options):
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
