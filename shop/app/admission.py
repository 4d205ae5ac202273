"""What the server asks of the whole application: about purchases the lane's admission, about pages their memory."""

import asyncio
from collections.abc import Mapping

from starlette.types import Scope

from shop.public_pages.admission import PublicPages
from shop.seckill.admission import PurchaseAdmission
from shop.server.answers import Answer

# Probes come first, and who has bought before who looks around.
READ_WEIGHTS = {
    b"%b %b" % (method, path): weight
    for method in (b"GET", b"HEAD")
    for path, weight in (
        (b"/livez", 8),
        (b"/v1/orders/", 4),
        (b"/v1/seckill/", 2),
        (b"/v1/products", 2),
        (b"/v1/time", 2),
    )
}


class AppAdmission:
    """The `shop.server.admission.Admission` of the application."""

    def __init__(self, purchases: PurchaseAdmission, pages: PublicPages) -> None:
        self.bulk_start = purchases.bulk_start
        self.is_bulk = purchases.is_bulk
        self.admit = purchases.admit
        self.admit_unparsed = purchases.admit_unparsed
        self.read_weights: Mapping[bytes, int] = READ_WEIGHTS
        self._purchases = purchases
        self._pages = pages

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        """See `shop.server.admission.Admission`."""
        if scope["method"] == "POST":
            return self._purchases.answer(scope, body)
        return self._pages.answer(scope)
