"""Whether the process is alive, said at the server's door: a crowd of probes holds up nobody, nor anybody a probe."""

from starlette.types import Scope

from shop.seckill.requests import RequestIds, purchase_headers
from shop.seckill.tally import Tally
from shop.server.answers import CONTENT_TYPE_JSON, Answer, with_length

PATH, BODY = "/livez", b'{"status":"ok"}'


class Liveness:
    """Answers `GET /livez` as its route does; None for every other request."""

    def __init__(self, request_ids: RequestIds) -> None:
        self._request_ids = request_ids
        self.tally = Tally("GET", PATH)

    def answer(self, scope: Scope) -> Answer | None:
        """See `shop.server.admission.Admission`."""
        if scope["path"] != PATH or scope["method"] not in {"GET", "HEAD"}:
            return None
        self.tally.count(200, None, 0.0)
        request_id = purchase_headers(scope).request_id or self._request_ids.new()
        return Answer(200, with_length([CONTENT_TYPE_JSON], BODY, request_id), BODY)
