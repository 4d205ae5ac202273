"""Accounts over HTTP: who may have one, who may sign in, and what is never told."""

import secrets
import uuid

import httpx
import pytest

from tests.harness import Shop

PASSWORD = "correct horse battery"
JSON = {"Content-Type": "application/json"}


def new_email() -> str:
    return f"{uuid.uuid4().hex}@example.com"


async def register(shop: Shop, email: str, password: str = PASSWORD) -> httpx.Response:
    return await (await shop.client()).post("/v1/users", json={"email": email, "password": password})


async def sign_in(shop: Shop, email: str, password: str = PASSWORD) -> httpx.Response:
    form = {"grant_type": "password", "username": email, "password": password}
    return await (await shop.client()).post("/v1/auth/token", data=form)


async def test_a_new_account_can_sign_in_and_ask_who_it_is(shop: Shop) -> None:
    email = new_email()
    registered = await register(shop, email)
    token = await sign_in(shop, email)
    me = await (await shop.client()).get("/v1/me", headers={"Authorization": f"Bearer {token.json()['access_token']}"})

    assert registered.status_code == 201
    assert registered.headers["Location"] == "/v1/me"
    assert token.status_code == 200
    assert token.headers["Cache-Control"] == "no-store"
    assert token.json()["token_type"] == "bearer"
    assert token.json()["expires_in"] > 0
    assert me.json() == registered.json()
    assert me.json()["email"] == email
    assert me.json()["role"] == "shopper"


async def test_an_address_is_the_same_in_upper_and_lower_case(shop: Shop) -> None:
    email = new_email()
    await register(shop, email)

    assert (await sign_in(shop, email.upper())).status_code == 200
    again = await register(shop, email.upper())
    assert (again.status_code, again.json()["code"]) == (409, "email_taken")


async def test_a_wrong_password_and_an_unknown_account_get_the_same_answer(shop: Shop) -> None:
    email = new_email()
    await register(shop, email)

    answers = [await sign_in(shop, email, "wrong horse battery"), await sign_in(shop, new_email())]

    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    problems = [{**answer.json(), "request_id": ""} for answer in answers]
    assert problems[0] == problems[1]


async def test_nobody_makes_themselves_an_admin(shop: Shop) -> None:
    answer = await (await shop.client()).post(
        "/v1/users", json={"email": new_email(), "password": PASSWORD, "role": "admin"}
    )

    assert answer.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada@example.com"},
        {"email": "ada@example.com", "password": "too short"},
        {"email": "ada@example.com", "password": "x" * 129},
        {"email": "ada@example.com", "password": None},
        {"email": "ada@example.com", "password": 1234567890},
        {"email": "ada@example.com", "password": ["x" * 10]},
        {"email": "ada", "password": PASSWORD},
        {"email": "ada\x00@example.com", "password": PASSWORD},
        {"email": "ada\r\nBcc: x@example.com", "password": PASSWORD},
        {"email": "a" * 10_000 + "@example.com", "password": PASSWORD},
        {"email": 1, "password": PASSWORD},
        [],
        "text",
    ],
)
async def test_a_bad_registration_is_refused(shop: Shop, body: object) -> None:
    answer = await (await shop.client()).post("/v1/users", json=body)

    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"username": "ada@example.com"},
        {"username": "", "password": PASSWORD},
        {"username": "ada\x00@example.com", "password": PASSWORD},
        {"username": "a" * 10_000, "password": PASSWORD},
        {"username": "ada@example.com", "password": "x" * 10_000},
        {"username": "ada@example.com", "password": PASSWORD, "grant_type": "client_credentials"},
    ],
)
async def test_a_bad_sign_in_form_is_refused(shop: Shop, form: dict[str, str]) -> None:
    answer = await (await shop.client()).post("/v1/auth/token", data=form)

    assert answer.status_code == 422, answer.text


async def test_half_a_surrogate_pair_is_no_password(shop: Shop) -> None:
    """JSON can spell one, but it is no character: such a body is not read on any route."""
    body = r'{"email": "ada@example.com", "password": "\ud800 horse battery"}'

    answer = await (await shop.client()).post("/v1/users", content=body, headers=JSON)

    assert answer.status_code == 400


async def test_a_password_is_the_same_from_every_keyboard(shop: Shop) -> None:
    """Some send a letter and its accents one by one, in a form of their own for the sign-up or for the sign-in."""
    composed, decomposed = "Gr\u00fc\u00dfe aus K\u00f6ln", "Gru\u0308\u00dfe aus Ko\u0308ln"
    longest = ("\u00f6" * 128, "o\u0308" * 128)
    for first, then in ((composed, decomposed), (decomposed, composed), longest):
        email = new_email()
        assert (await register(shop, email, first)).status_code == 201
        assert (await sign_in(shop, email, then)).status_code == 200
        assert (await sign_in(shop, email, then.upper())).status_code == 401


@pytest.mark.parametrize("password", ["bell\x07 in a password", "two\nlines of it", "o\u0308" * 9, "\u00f6" * 129])
async def test_a_new_password_is_measured_in_the_characters_that_a_person_sees(shop: Shop, password: str) -> None:
    assert (await register(shop, new_email(), password)).status_code == 422


async def test_passwords_are_never_echoed_or_logged(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither good ones nor those that are refused."""
    mark = secrets.token_hex(4)
    email = new_email()
    client = await shop.client()
    answers = [
        await register(shop, email, f"{mark}-password"),
        await register(shop, email, f"{mark}-password"),
        await register(shop, email, mark),
        await register(shop, "no address", f"{mark}-password"),
        await register(shop, new_email(), mark * 100),
        await client.post("/v1/users", json={"email": email, "password": f"{mark}-password", "extra": 1}),
        await client.post("/v1/users", content=f'{{"password": "{mark}-password", ', headers=JSON),
        await sign_in(shop, email, f"{mark}-password"),
        await sign_in(shop, email, f"{mark}-wrong"),
        await sign_in(shop, email, mark * 100),
        await sign_in(shop, "\x00", f"{mark}-password"),
    ]

    assert {answer.status_code for answer in answers} == {201, 409, 422, 400, 200, 401}
    assert not any(mark in answer.text for answer in answers)
    assert not any(mark in stream for stream in capfd.readouterr())


async def test_without_a_valid_token_there_is_no_account(shop: Shop) -> None:
    client = await shop.client()
    token = shop.token("ada")
    for value in (None, "", "Bearer", "Bearer x", f"Basic {token}", f"Bearer {token[:-2]}", token):
        answer = await client.get("/v1/me", headers={} if value is None else {"Authorization": value})

        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), value
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_without_an_account_finds_nobody(shop: Shop) -> None:
    answer = await (await shop.client()).get("/v1/me", headers={"Authorization": f"Bearer {shop.token('nobody')}"})

    assert answer.status_code == 404
