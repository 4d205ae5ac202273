"""What the sandbox refuses, with a status and a stable code, and the document that says so."""

from typing import Any

import msgspec
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Refused(Exception):
    """A refusal: nothing was changed, unless the code says that a payment was declined."""

    def __init__(self, status: int, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.extra = extra


def problem_response(refused: Refused) -> Response:
    """The answer that a refusal becomes."""
    document = {
        "type": "about:blank",
        "title": refused.code.replace("_", " ").capitalize(),
        "status": refused.status,
        "code": refused.code,
        "detail": refused.detail,
        **refused.extra,
    }
    headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
    if refused.status == 503:
        headers["Retry-After"] = "1"
    return Response(msgspec.json.encode(document), refused.status, headers, MEDIA_TYPE)
