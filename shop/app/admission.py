"""What the server asks of the whole application: about purchases the lane's admission, about reads their own."""

import asyncio

from starlette.types import Scope

from shop.app.liveness import Liveness
from shop.order_states.admission import PATH_START, OrderStates
from shop.public_pages.admission import PublicPages
from shop.seckill.admission import PurchaseAdmission
from shop.server.admission import ReadKind
from shop.server.answers import Answer


def _reads(weight: int, *paths: bytes) -> ReadKind:
    return ReadKind(weight, frozenset(b"%b %b" % (method, path) for method in (b"GET", b"HEAD") for path in paths))


# Probes come first, and who has bought before who looks around.
READ_KINDS: tuple[ReadKind, ...] = (
    _reads(16, b"/livez"),
    _reads(8, b"/v1/orders/"),
    _reads(4, b"/v1/seckill/", b"/v1/products", b"/v1/time"),
)


class AppAdmission:
    """The `shop.server.admission.Admission` of the application."""

    def __init__(
        self, purchases: PurchaseAdmission, states: OrderStates, pages: PublicPages, liveness: Liveness
    ) -> None:
        self.bulk_start = purchases.bulk_start
        self.is_bulk = purchases.is_bulk
        self.admit = purchases.admit
        self.begin_unparsed = purchases.begin_unparsed
        self.read_kinds = READ_KINDS
        self._purchases = purchases
        self._states = states
        self._pages = pages
        self._liveness = liveness

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        """See `shop.server.admission.Admission`."""
        if scope["method"] == "POST":
            return self._purchases.answer(scope, body)
        if scope["path"].startswith(PATH_START):
            return self._states.answer(scope)
        found = self._pages.answer(scope)
        return self._liveness.answer(scope) if found is None else found
