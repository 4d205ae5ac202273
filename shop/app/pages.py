"""What a browser is told with every page for people: run and load only what is the page's own, and frame it nowhere.

The pages of the documentation ask for a password, so nobody may lay one of them under a page of their own.
"""

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


def content_security_policy(page: bytes) -> str:
    """The policy of a page: its own files, and the scripts that stand in it."""
    digests = (hashlib.sha256(script).digest() for script in INLINE_SCRIPT.findall(page))
    return POLICY.format(scripts="".join(f" 'sha256-{base64.b64encode(each).decode()}'" for each in digests))


class PageHeaders:
    """Adds the headers of pages to every answer that is one; a policy that the page has already is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def send_protected(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_page(message):
                start = message  # It waits for the page itself.
                return
            if start is not None:
                _protect(start, message.get("body", b""))
                await send(start)
                start = None
            await send(message)

        await self._app(scope, receive, send_protected if scope["type"] == "http" else send)


def _is_page(start: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/html") for name, value in start.get("headers", ()))


def _protect(start: Message, page: bytes) -> None:
    headers = MutableHeaders(scope=start)
    headers.setdefault("Content-Security-Policy", content_security_policy(page))
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Referrer-Policy", "no-referrer")
