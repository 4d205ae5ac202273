"""Serve the sandbox: one process, because its books have one writer."""

import asyncio
import socket
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from shop.file_descriptors import raise_limit
from shop.sandbox.app import create_app
from shop.sandbox.behaviour import Behaviour
from shop.sandbox.provider import Provider
from shop.sandbox.repository import Books
from shop.sandbox.trouble import CuttableProtocol
from shop.settings import Settings
from shop.settings.addresses import http_url

KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 2
BACKLOG = 512


@dataclass(frozen=True)
class SandboxPlan:
    """How a sandbox is to be run; without a file its books are in memory, without a URL its webhooks are off."""

    host: str = "127.0.0.1"
    port: int = 8900
    public_url: str | None = None
    webhook_url: str | None = None
    data: Path | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)


class SandboxServer(uvicorn.Server):
    """Serves until it is asked to stop; to be asked is no accident, so that the exit status is 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop."""
        self.should_exit = True


def listen(plan: SandboxPlan) -> socket.socket:
    """The socket of the plan's address; port 0 is any that is free. Raises OSError."""
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    return socket.create_server((plan.host, plan.port), family=family, backlog=BACKLOG)


def public_url(plan: SandboxPlan, listener: socket.socket) -> str:
    """Where shoppers find the payment page."""
    return (plan.public_url or http_url(plan.host, listener.getsockname()[1])).rstrip("/")


def open_books(plan: SandboxPlan, listener: socket.socket) -> Books:
    """The books of the plan. Raises sqlite3.Error when the file cannot be used, or is by another sandbox."""
    return Books(plan.data, public_url=public_url(plan, listener))


def serve(settings: Settings, plan: SandboxPlan, listener: socket.socket, books: Books) -> None:
    """Serve at this socket until SIGTERM or Ctrl-C, and close the books."""
    raise_limit()
    with closing(books):
        provider = Provider(books, plan.behaviour, webhook_url=plan.webhook_url)
        asyncio.run(server(settings, provider).serve([listener]))


def server(settings: Settings, provider: Provider) -> SandboxServer:
    """The server of this provider."""
    app = create_app(provider, api_key=settings.payment_api_key, webhook_secret=settings.webhook_secrets[0])
    config = uvicorn.Config(
        app,
        http=CuttableProtocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return SandboxServer(config)
