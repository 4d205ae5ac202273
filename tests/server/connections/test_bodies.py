"""Bodies in every frame that HTTP has for them: what is whole is sold, what is too large or something else is not."""

import asyncio

import pytest

from shop.sales.models import Sale
from tests.harness import Shop
from tests.server.connections.wishes import BODY, Frame, Wish, ask_again, assert_sold_to, chunked, wishes
from tests.server.raw import LIVEZ, exchange, wire, wires

LONG = b'{"quantity":1'.ljust(4_999) + b"}"


@pytest.fixture(scope="module")
async def sale(served_shop: Shop) -> Sale:
    """A sale with units for all."""
    return await served_shop.open_sale(units=1_000)


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


CHUNKS: dict[str, Frame] = {
    "one": lambda wish: wish.chunked(),
    "one for each byte": lambda wish: wish.chunked(*bytewise(BODY)),
    "extensions": lambda wish: wish.chunked(*bytewise(BODY), extension=b';a;b=c;d="e;f"'),
    "trailers": lambda wish: wish.chunked(trailer=b"X-One: 1\r\nX-Two: 2\r\n"),
    "zeros before the size": lambda wish: wish.chunked().replace(b"\r\ne\r\n", b"\r\n000E\r\n"),
    "another case": lambda wish: wish.chunked().replace(b"chunked", b"Chunked"),
    "much padding": lambda wish: wish.chunked(b'{"quantity"', b" " * 4_000, b":1}"),
}


@pytest.mark.parametrize("frame", CHUNKS.values(), ids=CHUNKS)
async def test_a_purchase_in_chunks_is_a_purchase(shop: Shop, sale: Sale, frame: Frame) -> None:
    wish = Wish.of(shop, sale)
    wish.won(await exchange(shop, frame(wish)))


@pytest.mark.parametrize(
    "frame",
    [
        lambda wish: wish.request(),
        lambda wish: wish.chunked(b'{"quantity', b'":1}', extension=b";a=b", trailer=b"X-Trailer: yes\r\n"),
    ],
    ids=["plain", "chunks"],
)
async def test_a_purchase_may_be_split_at_every_byte(shop: Shop, frame: Frame) -> None:
    """What comes in two pieces is one purchase, wherever the cut is."""
    sale = await shop.open_sale(units=1_000)
    wanted = wishes(shop, sale, len(frame(Wish.of(shop, sale))))
    requests = [frame(wish) for wish in wanted]
    async with wires(shop, len(wanted)) as connections:
        for cut, (request, connection) in enumerate(zip(requests, connections, strict=True)):
            connection.send(request[:cut])
        # The API has read the first pieces when it answers who came after them.
        assert (await exchange(shop, LIVEZ)).status == 200
        for cut, (request, connection) in enumerate(zip(requests, connections, strict=True)):
            connection.send(request[cut:])
        answers = await asyncio.gather(*(connection.answer() for connection in connections))

    await assert_sold_to(shop, sale, [wish.won(answer) for wish, answer in zip(wanted, answers, strict=True)])


async def test_a_purchase_may_come_byte_by_byte(shop: Shop, sale: Sale) -> None:
    wish = Wish.of(shop, sale)
    async with wire(shop) as connection:
        for byte in bytewise(wish.chunked(extension=b";a=b", trailer=b"X-Trailer: yes\r\n")):
            connection.send(byte)
            await asyncio.sleep(0)
        wish.won(await connection.answer())


async def test_a_trailer_is_not_a_header(shop: Shop, sale: Sale) -> None:
    """A client named only behind the body is not named, and cannot become another one (RFC 9110, 6.5.1)."""
    buyer, other = wishes(shop, sale, 2)
    as_other = f"Authorization: Bearer {shop.token(other.user_id)}\r\nIdempotency-Key: {other.key}\r\n".encode()

    order = buyer.won(await exchange(shop, buyer.chunked(trailer=as_other)))
    anonymous = other.chunked(trailer=as_other).replace(b"Authorization", b"X-Ignored", 1)
    assert (await exchange(shop, anonymous)).refusal() == "unauthorized"

    again = await ask_again([buyer, other])
    assert [answer.outcome for answer in again] == ["replayed", "reserved"]
    assert again[0].body["id"] == order


async def test_a_trailer_is_not_a_header_on_the_ordinary_routes_either(shop: Shop) -> None:
    """Nobody becomes an admin by it."""
    head = (
        b"POST /v1/admin/products HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    product = b'{"name":"Smuggled","price_minor":1,"currency":"EUR"}'
    admin = f"Authorization: {shop.admin_headers()['Authorization']}\r\n".encode()

    assert (await exchange(shop, head + chunked(product, trailer=admin))).refusal() == "unauthorized"


LARGE: dict[str, Frame] = {
    "with a length": lambda wish: wish.request(body=LONG),
    "one chunk": lambda wish: wish.chunked(LONG),
    "many chunks": lambda wish: wish.chunked(*(LONG[start : start + 10] for start in range(0, len(LONG), 10))),
    "extensions": lambda wish: wish.chunked(*(LONG[start : start + 500] for start in range(0, len(LONG), 500))),
    "sent without waiting for 100": lambda wish: wish.request("Expect: 100-continue", body=LONG),
    "much larger": lambda wish: wish.request(body=b" " * 60_000),
    "chunks without an end": lambda wish: wish.request(
        "Transfer-Encoding: chunked", body=b"f000\r\n" + b" " * 10_000, framing=None
    ),
}


@pytest.mark.parametrize("frame", LARGE.values(), ids=LARGE)
async def test_a_body_that_is_too_large_is_refused_in_every_frame(shop: Shop, sale: Sale, frame: Frame) -> None:
    """413, and nothing was done."""
    wish = Wish.of(shop, sale)
    async with wire(shop) as connection:
        connection.send(frame(wish))
        answer = await connection.answer()
        if answer.status == 100:
            answer = await connection.answer()

    assert (answer.status, answer.refusal()) == (413, "body_too_large")
    assert [each.outcome for each in await ask_again([wish])] == ["reserved"]


async def test_what_is_left_of_a_refused_body_is_never_taken_for_a_request(shop: Shop, sale: Sale) -> None:
    """A purchase is hidden in a body that was refused before it had all come; the connection closes or goes on."""
    large, hidden, behind = wishes(shop, sale, 3)
    request = large.request(body=LONG + hidden.request())
    async with wire(shop) as connection:
        connection.send(request[: -len(hidden.request())])
        assert (await connection.answer()).status == 413
        connection.send(hidden.request() + behind.request())
        try:
            behind.won(await connection.answer())
        except EOFError:
            assert connection.closed_at is not None

    assert (await ask_again([hidden]))[0].outcome == "reserved"


async def test_a_client_that_expects_100_is_told_to_go_on_once(shop: Shop, sale: Sale) -> None:
    """And is answered when it has; one that does not wait for it is answered as well."""
    wish, hasty = wishes(shop, sale, 2)
    request = wish.request("Expect: 100-continue")
    async with wire(shop) as connection:
        connection.send(request[: -len(BODY)])
        assert (await connection.answer()).status == 100
        connection.send(BODY)
        wish.won(await connection.answer())

        connection.send(hasty.request("Expect: 100-continue"))
        answer = await connection.answer()
        hasty.won(await connection.answer() if answer.status == 100 else answer)


async def test_an_expectation_that_nobody_knows_is_ignored_or_refused(shop: Shop, sale: Sale) -> None:
    """Nobody waits for it (RFC 9110, 10.1.1)."""
    wish = Wish.of(shop, sale)

    answer = await exchange(shop, wish.request("Expect: miracles"))

    assert answer.status in {202, 417}
    expected = "replayed" if answer.status == 202 else "reserved"
    assert [each.outcome for each in await ask_again([wish])] == [expected]


KINDS: dict[str, int] = {
    "Content-Type: application/json": 202,
    "Content-Type: application/json; charset=utf-8": 202,
    "Content-Type: APPLICATION/JSON": 202,
    "Content-Type:application/json": 202,
    "X-No-Content-Type: at all": 202,
    "Content-Type:": 415,
    "Content-Type: text/plain": 415,
    "Content-Type: multipart/form-data; boundary=x": 415,
    "Content-Type: application/x-www-form-urlencoded": 415,
    "Content-Type: application/json, text/plain": 415,
    "Content-Type: \xff": 415,
    "Content-Type: application/json\r\nContent-Type: text/plain": 415,
}


@pytest.mark.parametrize("kind", KINDS, ids=repr)
async def test_a_body_of_another_kind_is_refused_and_one_of_no_kind_is_read(shop: Shop, sale: Sale, kind: str) -> None:
    """However it is framed; 415 means that nothing was done."""
    for framed in (Wish.request, Wish.chunked):
        wish = Wish.of(shop, sale)
        request = framed(wish).replace(b"\r\n\r\n", f"\r\n{kind}\r\n\r\n".encode("latin-1"), 1)

        answer = await exchange(shop, request)

        assert answer.status == KINDS[kind], answer
        if answer.status == 415:
            assert answer.refusal() == "unsupported_media_type"
            assert (await ask_again([wish]))[0].outcome == "reserved"


@pytest.mark.parametrize("body", [b"", b"\0", b"\r\n", b"quantity=1", b"\xff" * 20])
async def test_a_body_that_is_not_json_is_a_bad_request_in_every_frame(shop: Shop, sale: Sale, body: bytes) -> None:
    """Also when there is no byte of it, with a length of zero, without one, or with the last chunk alone."""
    wish = Wish.of(shop, sale)
    requests = [wish.request(body=body), wish.chunked(body) if body else wish.request(body=b"", framing=None)]
    if not body:
        requests.append(wish.request("Transfer-Encoding: chunked", body=b"0\r\n\r\n", framing=None))

    for request in requests:
        answer = await exchange(shop, request)
        assert (answer.status, answer.refusal()) == (400, "bad_request")
