"""Purchases written by hand, each by a buyer of its own and with a key, so that the truth can be asked for later."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from shop.sales.models import Sale
from tests.api.crowd import Answered, Click, click_all
from tests.crowd import assert_each_recorded_once
from tests.harness import Shop, new_user_id
from tests.server.raw import Answer

BODY = b'{"quantity":1}'


@dataclass(frozen=True)
class Wish:
    """One unit for one buyer. The request's id is the buyer's, so that an answer says whose it is."""

    shop: Shop
    sale: Sale
    user_id: str

    @classmethod
    def of(cls, shop: Shop, sale: Sale) -> "Wish":
        """A wish of somebody new."""
        return cls(shop, sale, new_user_id())

    @property
    def key(self) -> str:
        return f"key-of-{self.user_id}"

    @property
    def path(self) -> str:
        return self.shop.purchase_path(self.sale)

    def request(
        self, *fields: str, body: bytes = BODY, line: str | None = None, framing: str | None = "Content-Length"
    ) -> bytes:
        """The purchase with these fields besides its own; without `framing` its length is in them, or nowhere."""
        own = [
            line or f"POST {self.path} HTTP/1.1",
            "Host: shop",
            f"Authorization: Bearer {self.shop.token(self.user_id)}",
            f"Idempotency-Key: {self.key}",
            f"X-Request-Id: {self.user_id}",
        ]
        if framing:
            own.append(f"{framing}: {len(body)}")
        return "\r\n".join([*own, *fields, "", ""]).encode("latin-1") + body

    def chunked(self, *parts: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
        """The purchase in chunks of these parts."""
        body = chunked(*parts or (BODY,), extension=extension, trailer=trailer)
        return self.request("Transfer-Encoding: chunked", body=body, framing=None)

    def won(self, answer: Answer, status: int = 202) -> str:
        """The order that an answer promises, which must be an answer to this wish."""
        assert answer.status == status, answer
        assert answer.headers["x-request-id"] == self.user_id
        order_id: str = answer.json()["id"]
        return order_id


Frame = Callable[[Wish], bytes]


def wishes(shop: Shop, sale: Sale, count: int) -> list[Wish]:
    """So many wishes, whose requests are all of the same length."""
    return [Wish.of(shop, sale) for _ in range(count)]


def chunked(*parts: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """A body in chunks."""
    sized = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    return sized + b"0" + extension + b"\r\n" + trailer + b"\r\n"


async def ask_again(wanted: Sequence[Wish]) -> list[Answered]:
    """What each wish is answered when it is sent again, as a decent client does."""
    first = wanted[0]
    return await click_all(first.shop, first.sale, [Click(wish.user_id, wish.key) for wish in wanted])


async def assert_sold_to(shop: Shop, sale: Sale, orders: Iterable[str]) -> None:
    """These orders and no others are recorded, once each, and every unit is accounted for: none is lost."""
    expected: Collection[str] = list(orders)
    await assert_each_recorded_once(shop, sale, expected)
    report = await shop.audit(sale)
    assert (report.available + len(expected), report.held + report.paid) == (report.units, len(expected)), report


async def assert_all_are_served(wanted: Sequence[Wish], *, earlier: Collection[str] = ()) -> None:
    """Each buyer who asks again has one order, the one that they may have had already; nobody has more."""
    shop, sale = wanted[0].shop, wanted[0].sale
    answers = await ask_again(wanted)
    assert {answer.outcome for answer in answers} <= {"reserved", "replayed"}
    orders = [answer.body["id"] for answer in answers]
    assert set(earlier) <= set(orders)
    await assert_sold_to(shop, sale, orders)
