"""Requests that are not HTTP, and such as nobody sends in good faith: refused or answered, never an error, no trace."""

import asyncio

import pytest

from shop.problem_json import MEDIA_TYPE
from shop.sales.models import Sale
from tests.harness import Shop
from tests.server.connections.wishes import BODY, Frame, Wish, ask_again, chunked
from tests.server.raw import exchange, wire

HEAD_BYTES_MAX = 32 * 1024
KIB = 1024
SENT_BYTES_MAX = 8 * KIB * KIB


@pytest.fixture(scope="module")
async def sale(served_shop: Shop) -> Sale:
    """A sale with units for all."""
    return await served_shop.open_sale(units=1_000)


def framed(*fields: str, body: bytes = BODY) -> tuple[tuple[str, ...], bytes]:
    """The fields that say how long a body is, and the body."""
    return fields, body


# What is said about the length of a body that would be a good one.
LENGTHS = [
    *(framed(f"Content-Length: {length}") for length in ("-14", "+14", "0xe", "1 4", "14, 14", "14.0", "14;", "", "x")),
    *(
        framed(f"Content-Length: {length}")
        for length in ("9" * 30, "18446744073709551616", "１４".encode().decode("latin-1"))
    ),
    framed("Content-Length: 14", "Content-Length: 14"),
    framed("Content-Length: 14", "Content-Length: 99"),
    framed("Content-Length: 14", "content-length: 0"),
    framed("Content-Length: 14", "Transfer-Encoding: chunked", body=chunked(BODY)),
    framed("Transfer-Encoding: chunked", "Content-Length: 14", body=chunked(BODY)),
    framed("Transfer-Encoding: chunked", "Content-Length: 0", body=chunked(BODY)),
    *(
        framed(f"Transfer-Encoding: {coding}", body=chunked(BODY))
        for coding in ("identity", "gzip", "xchunked", "chunked, gzip", "chunked, chunked", "chunke", "\x0bchunked", "")
    ),
    framed("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=chunked(BODY)),
    framed("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body=chunked(BODY)),
    *(
        framed("Transfer-Encoding: chunked", body=size + b"\r\n" + BODY + b"\r\n0\r\n\r\n")
        for size in (b"xyz", b"-e", b"0xe", b"", b" e", b"e ", b"f" * 17, b"e\0", b"\r\ne")
    ),
    framed("Transfer-Encoding: chunked", body=b"d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    framed("Transfer-Encoding: chunked", body=b"e\r\n" + BODY + b"0\r\n\r\n"),
    framed("Transfer-Encoding: chunked", body=b"e\n" + BODY + b"\n0\n\n"),
    framed("Transfer-Encoding: chunked", body=chunked(BODY, trailer=b"no colon\r\n")),
    framed("Transfer-Encoding: chunked", body=chunked(BODY, trailer=b"X: \0\r\n")),
]


async def refused(shop: Shop, wish: Wish, request: bytes, status: int, code: str) -> None:
    """The request gets this one answer and the connection ends; nothing was done for it."""
    async with wire(shop) as connection:
        connection.send(request)
        (answer,) = await connection.rest()
    assert (answer.status, answer.refusal(), answer.closes) == (status, code, True)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]


@pytest.mark.parametrize(("fields", "body"), LENGTHS, ids=repr)
async def test_a_body_whose_length_is_not_clear_is_a_bad_request(
    shop: Shop, sale: Sale, fields: tuple[str, ...], body: bytes
) -> None:
    """Whoever stands in front of the shop could read it in another way (RFC 9112, 6.3)."""
    wish = Wish.of(shop, sale)
    await refused(shop, wish, wish.request(*fields, body=body, framing=None), 400, "bad_request")


async def test_a_request_that_is_refused_is_not_told_to_go_on(shop: Shop, sale: Sale) -> None:
    """It expects 100, and its body, which comes with it, is refused before anybody asks for it."""
    wish = Wish.of(shop, sale)
    request = wish.request("Expect: 100-continue", "Transfer-Encoding: chunked", body=b"xyz\r\n", framing=None)
    await refused(shop, wish, request, 400, "bad_request")


FIELDS = [
    *(b"X: a\0b", b"X: a\x01b", b"X: a\x7fb", b"X: a\rb", b"X: a\nb", b"X: a\r\n folded"),
    *(b"no colon", b"X : space", b": no name", b"X\0: y", b"X\xff: y", b"X Y: z", b"\x01\x02: x", b" X: y"),
]


@pytest.mark.parametrize("field", FIELDS, ids=repr)
async def test_a_header_that_is_not_one_is_a_bad_request(shop: Shop, sale: Sale, field: bytes) -> None:
    wish = Wish.of(shop, sale)
    request = wish.request().replace(b"Host: shop\r\n", b"Host: shop\r\n" + field + b"\r\n")
    await refused(shop, wish, request, 400, "bad_request")


LINES = [
    *(b"hello", b"POST", b"POST {path}", b"POST {path} HTTP/1.1 ", b"POST {path} HTTP/2.0", b"POST {path} HTTP/3.7"),
    *(b"POST {path} HTTP/11", b"POST {path} HTTPS/1.1", b"POST {path} http/1.1", b"POST {path} junk HTTP/1.1"),
    *(b"post {path} HTTP/1.1", b"BUY {path} HTTP/1.1", b"POST\t{path} HTTP/1.1", b" POST {path} HTTP/1.1"),
    *(b"P\0ST {path} HTTP/1.1", b"POST {path}\0 HTTP/1.1", b"POST {path}\xff HTTP/1.1", b"POST nowhere HTTP/1.1"),
    *(b"X" * 10_000 + b" {path} HTTP/1.1", b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:40]))
async def test_a_request_line_that_is_not_one_is_a_bad_request(shop: Shop, sale: Sale, line: bytes) -> None:
    """Other versions, other methods, other protocols, and bytes that have no place in a target."""
    wish = Wish.of(shop, sale)
    _, end, rest = wish.request().partition(b"\r\n")
    request = line.replace(b"{path}", wish.path.encode()) + end + rest
    await refused(shop, wish, request, 400, "bad_request")


async def test_lines_that_end_with_a_bare_line_feed_are_a_bad_request(shop: Shop, sale: Sale) -> None:
    wish = Wish.of(shop, sale)
    await refused(shop, wish, wish.request().replace(b"\r\n", b"\n"), 400, "bad_request")


def padded(wish: Wish, head_bytes: int, field: str) -> bytes:
    """The purchase with a head of just this length."""
    request = wish.request(f"{field}: ")
    missing = head_bytes - (len(request) - len(BODY))
    return wish.request(f"{field}: {'x' * missing}")


async def test_a_head_of_almost_32_kib_is_read(shop: Shop, sale: Sale) -> None:
    wish = Wish.of(shop, sale)
    wish.won(await exchange(shop, padded(wish, HEAD_BYTES_MAX - KIB, "X-Padding")))


LARGE_HEADS: dict[str, Frame] = {
    "a long header": lambda wish: padded(wish, HEAD_BYTES_MAX + KIB, "X-Padding"),
    "a long name": lambda wish: wish.request(f"{'x' * (HEAD_BYTES_MAX + KIB)}: y"),
    "a long target": lambda wish: wish.request(line=f"POST {wish.path}?{'x' * (HEAD_BYTES_MAX + KIB)} HTTP/1.1"),
    "10,000 headers": lambda wish: wish.request(*["a: b"] * 10_000),
    "a header without an end": lambda wish: padded(wish, HEAD_BYTES_MAX + KIB, "X-Padding")[:-100],
    "a target without an end": lambda wish: f"POST {wish.path}?{'x' * (HEAD_BYTES_MAX + KIB)}".encode(),
}


@pytest.mark.parametrize("head", LARGE_HEADS.values(), ids=LARGE_HEADS)
async def test_a_head_of_more_than_32_kib_is_too_large(shop: Shop, sale: Sale, head: Frame) -> None:
    wish = Wish.of(shop, sale)
    await refused(shop, wish, head(wish), 431, "head_too_large")


async def test_a_head_that_comes_in_pieces_is_too_large_when_it_is(shop: Shop, sale: Sale) -> None:
    wish = Wish.of(shop, sale)
    request = padded(wish, HEAD_BYTES_MAX + KIB, "X-Padding")
    async with wire(shop) as connection:
        for start in range(0, len(request), 1_000):
            connection.send(request[start : start + 1_000])
            await asyncio.sleep(0)
        (answer,) = await connection.rest()
    assert (answer.status, answer.refusal(), answer.closes) == (431, "head_too_large", True)
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]


async def test_a_request_that_is_not_http_is_answered_with_an_id_as_every_other(shop: Shop) -> None:
    """In the header and in the document, so that who complains of it can be found."""
    answer = await exchange(shop, b"hello\r\n\r\n")

    assert answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize("without_end", ["a head", "a target", "trailers"])
async def test_a_request_is_refused_as_soon_as_it_is_too_large(shop: Shop, sale: Sale, without_end: str) -> None:
    """A head or trailers without an end are refused after less than a few megabytes, and not when their time is up."""
    wish = Wish.of(shop, sale)
    start, more = {
        "a head": (wish.request()[:-20], b"X-Padding: x\r\n"),
        "a target": (f"POST {wish.path}?".encode(), b"x" * 14),
        "trailers": (wish.chunked()[:-2], b"X-Padding: x\r\n"),
    }[without_end]
    sent, piece = 0, more * 2_000
    async with wire(shop) as connection:
        connection.send(start)
        while connection.closed_at is None and sent < SENT_BYTES_MAX:
            connection.send(piece)
            sent += len(piece)
            await connection.sent()
            await asyncio.sleep(0)
        assert sent < SENT_BYTES_MAX
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]
