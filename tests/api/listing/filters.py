"""The filters of each list, with a value that most rows have and one that few have, and how to ask for a page."""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import repository as admin_events
from shop.admin_events.schemas import AdminEventQuery
from shop.orders.listing import repository as orders
from shop.orders.listing.schemas import OrderQuery
from shop.paging import ListQuery
from shop.payments.listing import repository as payments
from shop.payments.listing.schemas import PaymentQuery
from shop.users.listing import repository as users
from shop.users.listing.schemas import UserQuery

Page = Callable[[AsyncSession, Any], Awaitable[Sequence[Any]]]


class Listed(NamedTuple):
    """One list: what it is asked with, by whom it is answered, and the values of its filters."""

    name: str
    asked: type[ListQuery]
    page: Page
    filters: Mapping[str, Sequence[object]]

    def questions(self) -> Iterator[dict[str, object]]:
        """Nothing, each filter alone, and each two together."""
        yield {}
        pairs = [*((each,) for each in self.filters), *itertools.combinations(self.filters, 2)]
        for names in pairs:
            if names == ("email", "email_prefix"):  # is refused
                continue
            for values in itertools.product(*(self.filters[name] for name in names)):
                yield dict(zip(names, values, strict=True))


TIMES = {"created_from": ["2026-01-01T00:30:00Z"], "created_before": ["2026-01-01T01:00:00Z"]}
AN_ORDER = "00000000-0000-8000-8000-000000000001"
LISTS = (
    Listed(
        "orders",
        OrderQuery,
        orders.page,
        {
            "status": ["paid", "refunded", "expired", "reserved"],
            "sale_id": [1, 2],
            "user_id": ["u7"],
            "product_id": [1, 2, 3, 4],
            "of_sale": [True, False],
            "replacement": [True, False],
            **TIMES,
        },
    ),
    Listed(
        "payments",
        PaymentQuery,
        payments.page,
        {
            "status": ["captured", "open", "wanted"],
            "order_id": [AN_ORDER],
            "user_id": ["u7"],
            "currency": ["EUR", "JPY", "USD"],
            "unsettled": [True, False],
            "mismatch": [True],
            **TIMES,
        },
    ),
    Listed(
        "users",
        UserQuery,
        users.page,
        {
            "role": ["shopper", "admin"],
            "blocked": [True, False],
            "email": ["user7@example.com"],
            "email_prefix": ["user1", "user199"],
            **TIMES,
        },
    ),
    Listed(
        "admin_events",
        AdminEventQuery,
        admin_events.page,
        {
            "action": ["product.stock", "user.role"],
            "actor_id": ["often", "rare"],
            "subject": ["product", "user"],
            **TIMES,
        },
    ),
)
