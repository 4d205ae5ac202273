"""What a client may send to the purchase by mistake or on purpose: it gets a 4xx that says why, and nothing changes."""

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest

from loadtests.client.http import Address, Connection, Response
from shop.auth import ALGORITHM, issue_token
from shop.ledger.keys import ledger_keys
from shop.sales.models import Sale
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, outcome, running_shop, wait_until
from tests.processes import copy_of

# Every key that the shop has in Redis. What a client writes is in none of them, except a user id, which is checked.
KEYS = re.compile(
    rb"shop:\{\d+\.\d+\}:(sale|buyers|orders|stream|winners)"
    rb"|shop:(sales|installation)"
    rb"|shop:jobs(:health-check)?"
    rb"|shop:\{hot\}:(products|scaled_at)"
    rb"|shop:\{rate\}:[a-z_]+:(#[0-9a-f]{32}|[A-Za-z0-9_.:-]{1,64})"
    rb"|shop:\{cache:[a-z]+(:\d+)?\}:(generation|value|loading)(:\d+)?"
    rb"|arq:[a-z-]+:[a-z_]+:\d+"
    rb"|arq:(job|in-progress|retry):[0-9a-f]{32}"
)
HOSTILE = ["}", "{1.1}:sale", "a:b:c", "x" * 10_000, "..%2f..%2f", "'; DROP TABLE orders; --", "*", "shop:{1.1}:sale"]
ANSWER_SECONDS = 30.0


@pytest.fixture(scope="module")
async def sale(live_shop: Shop) -> Sale:
    """A sale that nobody must succeed in buying from, except where a test says so."""
    return await live_shop.open_sale(units=100, units_per_user=10)


async def contents(shop: Shop, sale: Sale) -> list[Any]:
    """All that the ledger of a sale holds, except what the persister trims."""
    keys = ledger_keys(sale.id, 1)
    hashes = [await shop.redis.execute_command("HGETALL", key) for key in keys[:3]]  # type: ignore[no-untyped-call]
    return [*hashes, (await shop.redis.xinfo_stream(keys.stream))["last-generated-id"]]


@pytest.fixture
async def untouched(shop: Shop, sale: Sale) -> AsyncIterator[None]:
    """The ledger is the same after the test as before it, to the last byte."""
    if await shop.redis.exists(ledger_keys(sale.id, 1).stream) == 0:
        assert outcome(await shop.buy(sale)) == "reserved"
    before = await contents(shop, sale)
    yield
    assert await contents(shop, sale) == before


async def post(shop: Shop, sale: Sale, body: bytes, **headers: str) -> httpx.Response:
    """A purchase with this very body by somebody new."""
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    client = await shop.client()
    return await client.post(shop.purchase_path(sale), headers=shop.headers() | given, content=body)


async def send_raw(shop: Shop, request: bytes) -> Response:
    """The answer to bytes that no decent client would send."""
    connection = await Connection.open(Address.of(shop.base_url), timeout_seconds=ANSWER_SECONDS)
    try:
        return await connection.exchange(request, timeout_seconds=ANSWER_SECONDS)
    finally:
        connection.close()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "quantity",
    [
        *("-1", "0", "1" + "0" * 30, "-1" + "0" * 30, "10001", "1.5", "1.0", "1e3"),
        *('"1"', '""', "true", "false", "null", "[1]", "{}", '{"$gt": 0}'),
    ],
)
async def test_a_quantity_that_is_no_whole_number_from_one_is_invalid(shop: Shop, sale: Sale, quantity: str) -> None:
    """422 with a pointer to the member, and the ledger is untouched (F29)."""
    answer = await post(shop, sale, f'{{"quantity": {quantity}}}'.encode())

    document = problem_of(answer, 422, "invalid")
    assert [violation["pointer"] for violation in document["errors"]] == ["/quantity"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "body", ["[]", "1", '"quantity"', "null", "true", '{"quantity":1,"user":"x"}', '{"Quantity":1}']
)
async def test_a_body_that_is_not_a_wish_is_invalid(shop: Shop, sale: Sale, body: str) -> None:
    """Nor is one that says more than the shop would listen to."""
    problem_of(await post(shop, sale, body.encode()), 422, "invalid")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"{quantity: 1}", b"quantity=1", b'{"quantity":1}}', b'{"quantity":1,}', b"\xff\xfe"),
        *(b'{"quantity":1}\0', b'{"quantity": NaN}', b'{"quantity": +1}', b"\xef\xbb\xbf{}", b"<quantity>1</quantity>"),
    ],
)
async def test_a_body_that_is_not_json_is_a_bad_request(shop: Shop, sale: Sale, body: bytes) -> None:
    problem_of(await post(shop, sale, body), 400, "bad_request")


@pytest.mark.usefixtures("untouched")
async def test_a_body_of_more_than_four_kilobytes_is_too_large_whether_it_says_so_or_not(
    shop: Shop, sale: Sale
) -> None:
    """With a Content-Length, in chunks without one, and also when it would be a good wish otherwise."""
    client = await shop.client()
    padded = b'{"quantity": 1' + b" " * 4_096 + b"}"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(padded), 100):
            yield padded[start : start + 100]

    for body in (padded, chunks(), b"x" * 60_000, b"[" * 5_000):
        answer = await client.post(shop.purchase_path(sale), headers=shop.headers(), content=body)
        problem_of(answer, 413, "body_too_large")


async def test_a_body_of_four_kilobytes_is_not_too_large(shop: Shop, sale: Sale) -> None:
    """The boundary: 4,096 bytes are taken, in one piece or in chunks."""
    body = b'{"quantity": 1'.ljust(4_095) + b"}"

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:4_000]
        yield body[4_000:]

    client = await shop.client()
    for sent in (body, chunks()):
        answer = await client.post(shop.purchase_path(sale), headers=shop.headers(), content=sent)
        assert outcome(answer) == "reserved"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"),
        *("", "json", "application/jsonx", "application/json5", "text/json", "application/problem+json"),
    ],
)
async def test_a_body_that_is_said_to_be_something_else_is_unsupported(shop: Shop, sale: Sale, kind: str) -> None:
    problem_of(await post(shop, sale, b'{"quantity":1}', Content_Type=kind), 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ;q=1", None])
async def test_a_body_that_is_said_to_be_json_or_nothing_is_read(shop: Shop, sale: Sale, kind: str | None) -> None:
    headers = shop.headers() if kind is None else {**shop.headers(), "Content-Type": kind}

    answer = await (await shop.client()).post(shop.purchase_path(sale), headers=headers, content=b'{"quantity":1}')

    assert outcome(answer) == "reserved"


def _claims(shop: Shop, **changes: Any) -> dict[str, Any]:
    settings = shop.settings
    token = issue_token(settings, user_id="mallory", role="shopper")
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    return {name: value for name, value in claims.items() if value is not None}


def _signed(shop: Shop, secret: str | None = None, algorithm: str = ALGORITHM, **changes: Any) -> str:
    return jwt.encode(
        _claims(shop, **changes), secret or shop.settings.secret_key.get_secret_value(), algorithm=algorithm
    )


@pytest.mark.usefixtures("untouched")
async def test_a_purchase_without_a_valid_token_is_refused(shop: Shop, sale: Sale) -> None:
    """401 for none, for another scheme, for a forged, expired, foreign or unsigned one, and for a hostile name."""
    good = shop.token("mallory")
    header, payload, signature = good.split(".")
    bad = {
        "none": None,
        "empty": "",
        "another scheme": f"Basic {good}",
        "no scheme": good,
        "only the scheme": "Bearer",
        "not a token": "Bearer token",
        "another signature": f"Bearer {header}.{payload}.{signature[:-4]}AAAA",
        "no signature": f"Bearer {header}.{payload}.",
        "another payload": f"Bearer {header}.{payload[:-2]}.{signature}",
        "unsigned": f"Bearer {jwt.encode(_claims(shop), '', algorithm='none')}",
        "another secret": f"Bearer {_signed(shop, secret='another secret that is long enough too')}",
        "another algorithm": f"Bearer {_signed(shop, algorithm='HS512')}",
        "expired": f"Bearer {_signed(shop, exp=1)}",
        "without an end": f"Bearer {_signed(shop, exp=None)}",
        "another issuer": f"Bearer {_signed(shop, iss='another shop')}",
        "another audience": f"Bearer {_signed(shop, aud='another shop')}",
        "without a name": f"Bearer {_signed(shop, sub=None)}",
        **{f"the name {name[:20]!r}": f"Bearer {_signed(shop, sub=name)}" for name in (*HOSTILE, "a\r\nb", "ä", "")},
        "10 kB": "Bearer " + "x" * 10_000,
    }
    client = await shop.client()
    for what, authorization in bad.items():
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await client.post(shop.purchase_path(sale), headers=headers, json={"quantity": 1})
        assert answer.status_code == 401, what
        problem_of(answer, 401, "unauthorized")


async def test_the_name_of_the_scheme_may_be_written_in_any_case(shop: Shop, sale: Sale) -> None:
    """RFC 9110; the other routes take it too."""
    client = await shop.client()
    for scheme in ("bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {shop.token(new_user_id())}"}
        answer = await client.post(shop.purchase_path(sale), headers=headers, json={"quantity": 1})
        assert outcome(answer) == "reserved"


async def test_a_blocked_buyer_is_refused(shop: Shop, sale: Sale) -> None:
    """403, also for the repeat of what they won before."""
    client = await shop.client()
    headers = await shop.sign_up()
    user_id = (await client.get("/v1/me", headers=headers)).json()["id"]
    assert outcome(await shop.buy(sale, user_id, key="before")) == "reserved"
    await shop.drained(sale)
    before = await contents(shop, sale)

    blocked = await client.post(f"/v1/admin/users/{user_id}/block", headers=shop.admin_headers())
    assert blocked.status_code == 204

    async def refused() -> bool:
        return (await shop.buy(sale, user_id, key="before")).status_code == 403

    await wait_until(refused, reason="the block took effect")
    problem_of(await shop.buy(sale, user_id, key="after"), 403, "user_blocked")
    assert await contents(shop, sale) == before


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "key",
    ["x" * 129, "x" * 10_000, "two words", "tab\there", '""', "", "é", "ключ", '"' + "x" * 129 + '"', '"two words"'],
    ids=lambda key: repr(key)[:20],
)
async def test_a_key_that_is_not_1_to_128_visible_characters_is_a_bad_request(shop: Shop, sale: Sale, key: str) -> None:
    client = await shop.client()
    headers = _bytes({**shop.headers(), "Idempotency-Key": key})

    answer = await client.post(shop.purchase_path(sale), headers=headers, json={"quantity": 1})

    problem_of(answer, 400, "idempotency_key_invalid")


async def test_a_key_of_128_visible_characters_is_taken_bare_or_quoted(shop: Shop, sale: Sale) -> None:
    user, key = new_user_id(), "".join(map(chr, range(0x23, 0x7F)))[:64] * 2
    assert len(key) == 128

    answers = [await shop.buy(sale, user, key=written) for written in (key, f'"{key}"', key)]

    assert [outcome(answer) for answer in answers] == ["reserved", "replayed", "replayed"]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("sale_id", "status", "code"),
    [
        ("999999999", 404, "not_found"),
        ("0", 404, "not_found"),
        ("2147483647", 404, "not_found"),
        ("2147483648", 422, "invalid"),
        ("9" * 19, 422, "invalid"),
        ("9" * 5_000, 422, "invalid"),
        ("-1", 422, "invalid"),
        ("1.5", 422, "invalid"),
        ("one", 422, "invalid"),
        ("%7B1.1%7D", 422, "invalid"),
        ("1%00", 422, "invalid"),
        ("%C3%A9", 422, "invalid"),
        ("%FF", 422, "invalid"),
        ("a%0D%0AX-Evil:%201", 422, "invalid"),
    ],
)
async def test_a_sale_that_does_not_exist_or_cannot_is_refused(
    shop: Shop, sale_id: str, status: int, code: str
) -> None:
    client = await shop.client()

    answer = await client.post(f"/v1/seckill/sales/{sale_id}/orders", headers=shop.headers(), json={"quantity": 1})

    assert "x-evil" not in answer.headers
    document = problem_of(answer, status, code)
    assert not document["retryable"]


async def test_what_is_wrong_with_a_request_does_not_depend_on_the_sale(shop: Shop, sale: Sale) -> None:
    """The same refusals for a sale that the lane knows, for a draft, and for one that does not exist."""
    draft = await shop.draft_sale(units=5)
    client = await shop.client()
    user = shop.headers()
    json_user = {**user, "Content-Type": "application/json"}
    wrong: list[tuple[dict[str, str], bytes, int]] = [
        ({}, b'{"quantity":1}', 401),
        ({"Authorization": "Bearer x"}, b'{"quantity":1}', 401),
        (json_user, b"{", 400),
        (json_user, b'{"quantity":0}', 422),
        (json_user, b'{"quantity":1}'.ljust(5_000), 413),
        ({**user, "Content-Type": "text/plain"}, b'{"quantity":1}', 415),
        ({**json_user, "Idempotency-Key": "two words"}, b'{"quantity":1}', 400),
        ({**json_user, "Idempotency-Key": "x" * 5_000}, b'{"quantity":1}', 400),
    ]
    for headers, body, status in wrong:
        for path in (shop.purchase_path(sale), shop.purchase_path(draft), "/v1/seckill/sales/999999999/orders"):
            answer = await client.post(path, headers=headers, content=body)
            assert answer.status_code == status, (path, headers, body, answer.text)


@pytest.mark.usefixtures("untouched")
async def test_a_request_that_is_not_http_is_refused_without_a_trace(shop: Shop, sale: Sale) -> None:
    """Line breaks in headers, two lengths, a body that is announced wrongly: 400, and the server lives on."""
    path = shop.purchase_path(sale)
    bearer = shop.headers()["Authorization"]
    for request in (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nIdempotency-Key: a\rb\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nIdempotency-Key: a\x01b\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nIdempotency-Key: \x7f\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\nContent-Length: 99\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        f"POST {path}\r\n x HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\r\n\r\n",
    ):
        assert (await send_raw(shop, request.encode("latin-1"))).status == 400
    assert (await (await shop.client()).get("/livez")).status_code == 200


async def test_a_buyer_who_asks_too_often_is_told_when_to_come_back(shop: Shop) -> None:
    """429 with Retry-After, RateLimit and its policy; others are not held up, and nothing is sold by it."""
    sale = await shop.open_sale(units=10, units_per_user=10)
    slow = copy_of(shop.settings, purchase_rate_per_second=0.1, purchase_burst=3)
    async with running_shop(slow, worker=False) as limited:
        await limited.until_loaded(sale)
        user = new_user_id()

        answers = [await limited.buy(sale, user, key=f"key-{number}") for number in range(5)]

        assert [outcome(answer) for answer in answers] == ["reserved"] * 3 + ["rate_limited"] * 2
        problem_of(refused := answers[-1], 429, "rate_limited")
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= 10 + 3 + 1
        assert refused.headers["ratelimit"] == f'"buy";r=0;t={wait}'
        assert re.fullmatch(r'"buy";q=\d+;w=\d+', refused.headers["ratelimit-policy"])
        assert outcome(await limited.buy(sale)) == "reserved"
        problem_of(await limited.buy(sale, user), 429, "rate_limited")
    assert (await shop.drained(sale)).units_taken == 4


async def test_what_clients_send_is_in_no_key_of_redis(shop: Shop, sale: Sale) -> None:
    """Ids with braces, colons, line breaks, 10 kB or other letters end in a hash or in a refusal."""
    client = await shop.client()
    for hostile in (*HOSTILE, "a\r\nb", "é", "🦊"):
        one_line = hostile.replace("\r\n", " ")
        for headers in (
            {**shop.headers(), "Idempotency-Key": one_line},
            {"Authorization": f"Bearer {one_line}"},
            {"Authorization": f"Bearer {_signed(shop, sub=hostile)}"},
            {**shop.headers(), "X-Request-Id": one_line},
        ):
            await client.post(shop.purchase_path(sale), headers=_bytes(headers), json={"quantity": 1})
        await client.post("/v1/users", json={"email": f"{hostile}@example.com", "password": hostile})
        await client.get("/v1/products", params={"starting_after": hostile, "limit": hostile})
        await client.get(f"/v1/products/{quote(hostile[:1_000], safe='')}")

    # Few, because sign-ins are throttled by address and every test has the same.
    for hostile in HOSTILE[:3]:
        await client.post("/v1/auth/token", data={"username": hostile, "password": hostile})

    keys = await shop.redis.keys("*")
    assert [key for key in keys if not KEYS.fullmatch(key)] == []
    buyers = await shop.redis.execute_command("HKEYS", ledger_keys(sale.id, 1).buyers)  # type: ignore[no-untyped-call]
    assert buyers
    assert all(re.fullmatch(rb"[A-Za-z0-9_-]{1,64}", user) for user in buyers)


def _bytes(headers: dict[str, str]) -> dict[bytes, bytes]:
    """Headers as they go over the wire; a client of good manners would refuse some of them."""
    return {name.encode(): value.encode() for name, value in headers.items()}
