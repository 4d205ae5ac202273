"""What surrounds every request, as pure ASGI: its id, its metrics, and the bound on its body."""

import time
from uuid import uuid4

import structlog
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop import metrics
from shop.app.problems import send_problem
from shop.errors import BodyTooLarge
from shop.seckill.requests import CONTENT_LENGTH, REQUEST_ID
from shop.settings import Settings

UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Gives each request an id, counts and times it by its route template, and refuses a body that is too large."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = RequestBodyLimitMiddleware(app, settings.body_bytes_max)
        self._body_bytes_max = settings.body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent_id, content_length = _read_headers(scope)
        scope["request_id"] = request_id = sent_id or uuid4().hex
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if content_length > self._body_bytes_max:
                await send_problem(BodyTooLarge(f"At most {self._body_bytes_max} bytes"), scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")
            route, method = _route(scope), scope["method"] if scope["method"] in METHODS else "other"
            metrics.REQUESTS.labels(method, route, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(method, route).observe(time.perf_counter() - started)


def _read_headers(scope: Scope) -> tuple[str, int]:
    request_id, content_length = "", 0
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"content-length" and CONTENT_LENGTH.fullmatch(value):
            content_length = int(value)
    return request_id, content_length


def _route(scope: Scope) -> str:
    """The template of the route, never the path: labels must not grow with what clients send."""
    route = getattr(scope.get("route"), "path_format", None)
    return route if isinstance(route, str) else UNMATCHED
