"""The processes of the API: a single one, or several that are forked from one which has imported the application.

The one that keeps them needs none of it, so that it is there soon, and so are they.

Several processes have a listening socket each (SO_REUSEPORT), and the kernel spreads the connections evenly: of a burst
of 256, two processes got 53 and 47 %; with one socket for both, the first to wake took 67 % in the median, and all
under load. The sockets belong to the parent: the listen backlog of a process that was killed is served by its
successor, while a socket of the process's own would have reset it, half of a burst.
"""

import socket
from importlib import import_module

from shop.file_descriptors import raise_limit
from shop.processes import ParentPipe, ProcessPool
from shop.settings import Settings, get_settings
from shop.stopping import CLOSING_SECONDS

PRELOADED = "shop.app.preloading"


def serve(settings: Settings, listeners: list[socket.socket], *, processes: int) -> int:
    """Serve the API at these sockets until SIGTERM or Ctrl-C, and return the exit status."""
    raise_limit()
    if processes == 1:
        _serve(settings, listeners)
        return 0
    slots = [slot % len(listeners) for slot in range(processes)]

    def close() -> None:
        for listener in listeners:
            listener.close()

    return ProcessPool(
        _serve_beside_others,
        [(*listeners[slot:], *listeners[:slot]) for slot in slots],
        preload=[PRELOADED],
        stop_seconds_max=settings.graceful_stop_seconds + CLOSING_SECONDS + 1,
        before_stop=close,
    ).run()


def _serve_beside_others(parent_pipe: ParentPipe, *listeners: socket.socket) -> None:
    _serve(get_settings(), list(listeners), parent_pipe)


def _serve(settings: Settings, listeners: list[socket.socket], parent_pipe: ParentPipe | None = None) -> None:
    import_module(PRELOADED)  # A process that was forked has it already.
    from shop.app.factory import create_app_from_environment
    from shop.server.serving import ShopServer, server_config

    raise_limit()
    ShopServer(server_config(create_app_from_environment, settings), listeners, parent_pipe).run([])
