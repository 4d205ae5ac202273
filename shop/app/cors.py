"""Which pages of other origins may use the API, and what they may send and see."""

import asyncio
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shop.app.admission import AppAdmission
from shop.app.problems import problem_response
from shop.errors import OriginRefused
from shop.seckill.requests import REQUEST_ID
from shop.server.answers import Answer, Reply, WholeAnswer, answer_when
from shop.settings import Settings

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
ALLOWED_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Receipt",
    "Traceparent",
    "Tracestate",
    "X-Request-Id",
]
EXPOSED_HEADERS = [
    "Age",
    "Allow",
    "Date",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
]

VARY, VARY_ORIGIN = b"vary", b"vary: Origin\r\n"


class Cors(CORSMiddleware):
    """The origins of the settings; a preflight that is refused says why in a problem document."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                await self._preflight(scope["path"], headers)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def answer_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What `send` adds to an answer."""
        origin, headers = Headers(scope=scope).get("origin"), MutableHeaders({"Vary": "Origin"})
        if origin is not None:
            headers.update(self.simple_headers)
            if not self.allow_all_origins and self.is_allowed_origin(origin):
                headers["Access-Control-Allow-Origin"] = origin
        return headers.raw

    def _preflight(self, path: str, asked: Headers) -> Response:
        """204, or what of the question is not allowed."""
        response = self.preflight_response(asked)
        sent = asked.get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent.encode("latin-1")) else uuid4().hex
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        headers = {**kept, "X-Request-Id": request_id}
        if response.status_code == 200:
            return Response(status_code=204, headers=headers)
        refusal = OriginRefused(bytes(response.body).decode())
        return problem_response(refusal, path, request_id, headers)


class CorsAdmission:
    """The admission of the application, with what pages of other origins may see of its refusals and its answers."""

    def __init__(self, admission: AppAdmission, cors: Cors) -> None:
        self.bulk_start = admission.bulk_start
        self.is_bulk = admission.is_bulk
        self.read_kinds = admission.read_kinds
        self._admission = admission
        self._cors = cors

    def admit(self, scope: Scope) -> bytes | None:
        """See `shop.server.admission.Admission`."""
        if (refusal := self._admission.admit(scope)) is None:
            return None
        return b"".join(b"%b: %b\r\n" % header for header in self._cors.answer_headers(scope)) + refusal

    def begin_unparsed(self, data: bytes, reply: Reply) -> bytes | bool:
        """See `shop.server.admission.Admission`. A request with an Origin is parsed."""

        def reply_with_vary(answer: WholeAnswer | None) -> None:
            reply(None if answer is None else WholeAnswer(answer.status, VARY_ORIGIN + answer.rest))

        begun = self._admission.begin_unparsed(data, reply_with_vary)
        return begun if isinstance(begun, bool) else VARY_ORIGIN + begun

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        """See `shop.server.admission.Admission`."""
        found = self._admission.answer(scope, body)
        if found is None:
            return None
        if isinstance(found, Answer):
            return self._with_headers(scope, found)
        return answer_when(found, lambda done: self._with_headers(scope, done.result()))

    def _with_headers(self, scope: Scope, answer: Answer) -> Answer:
        headers = [*answer.headers, *self._cors.answer_headers(scope)]
        varies = [value for name, value in headers if name == VARY]
        if len(varies) > 1:
            headers = [*(header for header in headers if header[0] != VARY), (VARY, b", ".join(varies))]
        return answer._replace(headers=headers)
