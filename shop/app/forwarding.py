"""Who a request is from, when trusted proxies stand between the shop and its clients."""

from starlette.types import ASGIApp, Receive, Scope, Send

from shop.settings import Settings

SCHEMES = {b"http": "http", b"https": "https"}


class Forwarded:
    """Puts the client's own address and scheme into the scope, if the peer is a trusted proxy and names them."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._proxies = settings.proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._believe(scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        peer = scope["client"][0] if scope["client"] else None
        if not self._proxies.trust_peer(peer):
            return
        forwarded_for: list[str] = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                forwarded_for.append(value.decode("latin-1"))
            elif name == b"x-forwarded-proto":
                scope["scheme"] = SCHEMES.get(value.strip().lower(), scope["scheme"])
        client = self._proxies.client(peer, forwarded_for)
        if client is not None and client != peer:
            scope["client"] = (client, 0)
