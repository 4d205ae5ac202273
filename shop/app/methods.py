"""The methods that every path has without a route of their own: HEAD where there is GET, and OPTIONS."""

import asyncio
from collections.abc import Iterable

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
OF_FILES = {"GET"}


def allowed_methods(scope: Scope, routes: Iterable[BaseRoute]) -> list[str]:
    """Every method that this path has, for `Allow`; none if there is no such path."""
    found = {
        method
        for route in routes
        for method in (OF_FILES if isinstance(route, Mount) else METHODS)
        if route.matches({**scope, "method": method})[0] is Match.FULL
    }
    if "GET" in found:
        found.add("HEAD")
    return sorted(found | {"OPTIONS"}) if found else []


class Methods:
    """HEAD is answered as GET is, without the body; OPTIONS with what the path has."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["type"] == "http" else None
        if method == "HEAD":
            await self._answer_head(scope, receive, send)
        elif method == "OPTIONS" and (allowed := allowed_methods(scope, self._routes)):
            await Response(status_code=204, headers={"Allow": ", ".join(allowed)})(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The body is not waited for: that of a stream would not end. Its sender sees a client that has gone."""
        answered, asked = asyncio.Event(), False

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                answered.set()

        async def receive_until_answered() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return await receive()
            await answered.wait()
            return {"type": "http.disconnect"}

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive_until_answered, send_head)
        finally:
            if "route" in as_get:  # The routing leaves it there for those who count by route.
                scope["route"] = as_get["route"]
