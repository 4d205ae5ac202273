"""A whole purchase that is told from its bytes alone: never where a parser would see anything else in them."""

import httptools
import pytest

from shop.seckill.requests import sale_in_path
from shop.seckill.whole_purchases import whole_purchase

PATH = "/v1/seckill/sales/7/orders"
LINE = f"POST {PATH} HTTP/1.1"
BODY = '{"quantity":1}'
LENGTH = f"Content-Length: {len(BODY)}"


def request(*fields: str, line: str = LINE, body: str = BODY) -> bytes:
    return "\r\n".join([line, "Host: shop", *fields, "", body]).encode("latin-1")


class Parsed:
    """What a parser finds."""

    def __init__(self, data: bytes) -> None:
        self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.messages = 0
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)
        self.stays_open = self._parser.should_keep_alive()

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


@pytest.mark.parametrize(
    ("fields", "request_id"),
    [
        ([LENGTH], None),
        ([LENGTH.lower()], None),
        ([f"CONTENT-LENGTH:\t {len(BODY)} \t"], None),
        ([LENGTH, "X-Request-Id: my.own:id_1"], b"my.own:id_1"),
        (["x-request-id:1", "Idempotency-Key: key", LENGTH, "Authorization: Bearer a.b.c"], b"1"),
        ([LENGTH, "X-Content-Length: 3", "Accept: transfer-encoding, connection: close"], None),
        ([LENGTH, "Content-Length-Too: 3", "Connection: Keep-Alive", "empty:"], None),
    ],
)
def test_a_plain_whole_purchase_is_what_a_parser_finds(fields: list[str], request_id: bytes | None) -> None:
    data = request(*fields)

    found = whole_purchase(data)

    assert found is not None
    assert (found.sale_id, found.path, found.headers.request_id, found.body) == (7, PATH, request_id, BODY.encode())
    parsed = Parsed(data)
    assert (parsed.path.decode(), parsed.body.decode(), parsed.messages) == (PATH, BODY, 1)
    assert parsed.headers.get(b"x-request-id") == request_id
    assert parsed.stays_open


PLAIN = request(LENGTH)
PLAIN_WITHOUT_HOST = PLAIN.replace(b"Host: shop\r\n", b"")


@pytest.mark.parametrize(
    "data",
    [
        *(PLAIN[:length] for length in range(len(PLAIN))),
        PLAIN + b"G",
        PLAIN + PLAIN,
        request(),
        request(body=""),
        request(LENGTH, LENGTH),
        request(LENGTH, "Content-Length: 3"),
        request(f"Content-Length : {len(BODY)}"),
        request(f"Content-Length: +{len(BODY)}"),
        request(f"Content-Length: {len(BODY)}, {len(BODY)}"),
        request("Content-Length: \u00b2"),
        request(f"Content-Length: {'1' * 5_000}"),
        request(f"Content-Length: {'0' * 5_000}{len(BODY)}"),
        request(LENGTH, " folded"),
        request(LENGTH, "\tfolded"),
        request(LENGTH, "Transfer-Encoding: chunked"),
        request(LENGTH, "TRANSFER-ENCODING : chunked"),
        request(LENGTH, "Transfer-Encoding:", " chunked"),
        request(LENGTH, "Connection: close"),
        request(LENGTH, "Expect: 100-continue"),
        request(LENGTH, "Upgrade: websocket"),
        request(LENGTH, "Prefer: wait=5"),
        request(LENGTH, "Origin: https://shop.example"),
        request(LENGTH, "Host: shop"),
        request(LENGTH, "Authorization: Bearer a", "authorization: Bearer b"),
        request(LENGTH, "no colon"),
        request(LENGTH, "nocolon"),
        request(LENGTH, ": no name"),
        request(LENGTH, "A\tB: c"),
        request(LENGTH, "A: \x00"),
        request(LENGTH, "A: \x7f"),
        request(LENGTH, *(f"A{number}: b" for number in range(100))),
        request(LENGTH, f"A: {'b' * 10_000}"),
        PLAIN_WITHOUT_HOST,
        PLAIN_WITHOUT_HOST.replace(b"\r\n", b"\r\nHost: a b\r\n", 1),
        request(LENGTH, "X-Request-Id: not an id"),
        request(LENGTH, 'X-Request-Id: "'),
        request(LENGTH, "X-Request-Id: 1", "X-Request-Id: 2"),
        request(f"A: b\n{LENGTH}"),
        request(LENGTH, "A: b\nTransfer-Encoding: chunked"),
        request(LENGTH, "A: b\rTransfer-Encoding: chunked"),
        request(LENGTH, line=f"POST {PATH} HTTP/1.0"),
        request(LENGTH, line=f"POST {PATH}?a=b HTTP/1.1"),
        request(LENGTH, line=f"POST  {PATH} HTTP/1.1"),
        request(LENGTH, line=f"PUT {PATH} HTTP/1.1"),
        request(LENGTH, line="POST /v1/seckill/sales/7/preview HTTP/1.1"),
        request(LENGTH, line="POST /v1/seckill/sales/12345678901/orders HTTP/1.1"),
        request(LENGTH, line="POST /v1/seckill/sales/\u00b2/orders HTTP/1.1"),
        b"\r\n" + PLAIN,
    ],
)
def test_everything_else_is_for_the_parser(data: bytes) -> None:
    assert whole_purchase(data) is None


@pytest.mark.parametrize(
    ("path", "sale_id"),
    [
        (PATH, 7),
        ("/v1/seckill/sales/0/orders", 0),
        ("/v1/seckill/sales/007/orders", None),
        ("/v1/seckill/sales/+7/orders", None),
        ("/v1/seckill/sales/7.0/orders", None),
        ("/v1/seckill/sales/7\n/orders", None),
        ("/v1/seckill/sales/9999999999/orders", None),
        ("/v1/seckill/sales/00000000007/orders", None),
        (f"/v1/seckill/sales/{'1' * 30_000}/orders", None),
        ("/v1/seckill/sales/\u0667/orders", None),
        ("/v1/seckill/sales//orders", None),
        ("/v1/seckill/sales/7/orders/", None),
        ("/v1/seckill/sales/orders", None),
    ],
)
def test_only_a_short_plain_path_names_a_sale(path: str, sale_id: int | None) -> None:
    assert sale_in_path(path) == sale_id
