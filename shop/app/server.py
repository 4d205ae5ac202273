"""How the API is served: one place for the server's flags, for `shop api` and for the tests."""

from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from shop.app.protocol import ShopProtocol
from shop.settings import Settings

BACKLOG = 4096
KEEP_ALIVE_SECONDS = 75


def server_config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    """The configuration of the server; `app` is an application, or the name of a factory."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=ShopProtocol,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,  # the application does it, behind the purchase lane
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
        **more,
    )


def serve(settings: Settings, *, processes: int) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    config = server_config(
        "shop.app:create_app_from_environment",
        settings,
        host=settings.api_host,
        port=settings.api_port,
        workers=processes,
    )
    if processes == 1:
        uvicorn.Server(config).run()
        return
    Multiprocess(config, sockets=[config.bind_socket()]).run()
