"""Where a local shop listens: at the ports that are wanted, at others if they are taken, which is said."""

import errno
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shop.listening_sockets import listen, port_of
from shop.local.parts import NotStarted
from shop.metrics_page import serve_metrics
from shop.readiness import details
from shop.settings import Settings

PROVIDER_HOST, PROVIDER_PORT = "127.0.0.1", 8900


def listen_somewhere(
    what: str, host: str, port: int, notice: Callable[[str], object], *, processes: int = 1
) -> list[socket.socket]:
    """Listeners at this port, or at another one if it is taken, which is said. Raises NotStarted."""
    try:
        try:
            return listen(host, port, processes=processes)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        listeners = listen(host, 0, processes=processes)
    except OSError as error:
        raise NotStarted(f"the {what} cannot listen on {host}:{port}: {error.strerror}") from error
    notice(f"port {port} is taken: the {what} listens on {port_of(listeners[0])}")
    return listeners


def listen_as_before(file: Path, notice: Callable[[str], object]) -> list[socket.socket]:
    """The payment provider's listener, where it was before: unpaid orders expect it there. Raises NotStarted."""
    words = file.read_text().strip() if file.exists() else ""
    if not words.isdecimal():
        listeners = listen_somewhere("payment provider", PROVIDER_HOST, PROVIDER_PORT, notice)
        file.write_text(f"{port_of(listeners[0])}\n")
        return listeners
    try:
        return listen(PROVIDER_HOST, int(words))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no port"
        raise NotStarted(
            f"the payment provider cannot listen on {PROVIDER_HOST}:{words} again, where unpaid orders expect it:"
            f" {reason}; end what listens there, or remove {file} to give them up"
        ) from error


def show_metrics(own: Settings, notice: Callable[[str], object]) -> int:
    """Show the metrics at their port, or at another one if it is taken; returns it. Raises NotStarted."""
    for port in (own.metrics_port, 0):
        try:
            served = serve_metrics(own.metrics_host, port, {"/readyz": partial(details, own)})
        except OSError as error:
            if port == 0 or error.errno != errno.EADDRINUSE:
                raise NotStarted(f"the metrics cannot listen on {own.metrics_host}:{port}: {error.strerror}") from error
            continue
        if served != own.metrics_port != 0:
            notice(f"port {own.metrics_port} is taken: the metrics are on {served}")
        break
    return served
