"""Ports for what the tests start: none that the kernel may lend to somebody else between the look and the use."""

import itertools
import os

from shop.listening_sockets import free_port

LOWEST, OF_EACH_PROCESS = 20_000, 1_500  # below those that the kernel lends, and apart for each process of the run
_place = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.cycle(range(LOWEST + _place * OF_EACH_PROCESS, LOWEST + (_place + 1) * OF_EACH_PROCESS))


def unused_port() -> int:
    """A port of the loopback that nobody listens on."""
    while (port := next(_ports)) != free_port("127.0.0.1", port):
        pass
    return port
