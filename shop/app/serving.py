"""How `shop api` serves: the processes, and the sockets that they share.

Several processes have a listening socket each (SO_REUSEPORT), and the kernel spreads the connections evenly: of a burst
of 256, two processes got 53 and 47 %; with one socket for both, the first to wake took 67 % in the median, and all
under load. The sockets belong to the parent: the listen backlog of a process that was killed is served by its
successor, while a socket of the process's own would have reset it, half of a burst.
"""

import socket
from collections.abc import Sequence

from shop.app.factory import create_app_from_environment
from shop.descriptors import raise_limit
from shop.processes import ParentPipe, ProcessPool
from shop.server.serving import CLOSING_SECONDS, ShopServer, server_config
from shop.settings import Settings, get_settings

# What every process of the pool imports; the second for the script that has started us, which they import as well.
PRELOAD = ("shop.app", "shop.cli")


def serve(settings: Settings, listeners: list[socket.socket], *, processes: int) -> int:
    """Serve the API at these sockets until SIGTERM or Ctrl-C, and return the exit status."""
    raise_limit()
    if processes == 1:
        _server(settings, listeners).run([])
        return 0
    slots = [slot % len(listeners) for slot in range(processes)]

    def close() -> None:
        for listener in listeners:
            listener.close()

    return ProcessPool(
        _serve_beside_others,
        [(*listeners[slot:], *listeners[:slot]) for slot in slots],
        preload=PRELOAD,
        stop_seconds_max=settings.graceful_stop_seconds + CLOSING_SECONDS + 1,
        before_stop=close,
    ).run()


def _serve_beside_others(parent_pipe: ParentPipe, *listeners: socket.socket) -> None:
    _server(get_settings(), listeners, parent_pipe).run([])


def _server(
    settings: Settings, listeners: Sequence[socket.socket], parent_pipe: ParentPipe | None = None
) -> ShopServer:
    raise_limit()
    return ShopServer(server_config(create_app_from_environment, settings), listeners, parent_pipe)
