"""Registering and signing in are throttled by address and by account, because each costs a hash."""

import uuid

import pytest
import redis.asyncio as aioredis
from fastapi import Request
from starlette.applications import Starlette

from shop.errors import RateLimited
from shop.settings import Settings
from shop.users.throttle import SIGN_IN_LIMITERS, sign_in_limiters, throttle
from tests.harness import Shop

PASSWORD = "correct horse battery"


def request_from(address: str, redis: aioredis.Redis, settings: Settings) -> Request:
    """A request to a process of its own, which knows only what Redis tells it."""
    strict = settings.model_copy(update={"sign_in_per_minute_per_address": 6, "sign_in_per_minute_per_account": 3})
    app = Starlette()
    SIGN_IN_LIMITERS.put(app, sign_in_limiters(redis, strict))
    return Request({"type": "http", "headers": [], "client": (address, 1), "app": app})


async def test_one_address_cannot_try_many_accounts(redis: aioredis.Redis, settings: Settings) -> None:
    for n in range(6):
        await throttle(request_from("192.0.2.1", redis, settings), email=f"user-{n}@example.com")

    with pytest.raises(RateLimited) as refusal:
        await throttle(request_from("192.0.2.1", redis, settings), email="another@example.com")
    assert refusal.value.headers["RateLimit-Policy"] == '"sign_in_address";q=6;w=60'
    await throttle(request_from("192.0.2.2", redis, settings), email="another@example.com")


async def test_many_addresses_cannot_try_one_account(redis: aioredis.Redis, settings: Settings) -> None:
    for n in range(3):
        await throttle(request_from(f"192.0.2.{n}", redis, settings), email="ada@example.com")

    with pytest.raises(RateLimited) as refusal:
        await throttle(request_from("192.0.2.9", redis, settings), email="ada@example.com")
    assert refusal.value.headers["RateLimit-Policy"] == '"sign_in_account";q=3;w=60'


async def test_addresses_of_accounts_are_not_written_into_keys(redis: aioredis.Redis, settings: Settings) -> None:
    await throttle(request_from("192.0.2.1", redis, settings), email="ada@example.com")

    keys = b" ".join(await redis.keys("*"))

    assert b"ada" not in keys
    assert b"192.0.2.1" in keys


async def test_a_guesser_gets_429_over_http(shop: Shop, settings: Settings) -> None:
    """Whatever the case in which they write the address, and for registering and signing in together."""
    client = await shop.client()
    email = f"{uuid.uuid4().hex}@example.com"
    statuses = [(await client.post("/v1/users", json={"email": email, "password": PASSWORD})).status_code]
    for n in range(settings.sign_in_per_minute_per_account):
        username = email.upper() if n % 2 else email
        answer = await client.post("/v1/auth/token", data={"username": username, "password": f"guess number {n}"})
        statuses.append(answer.status_code)

    assert statuses[0] == 201
    assert statuses[-1] == 429
    assert set(statuses[1:-1]) == {401}
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["RateLimit"] == f'"sign_in_account";r=0;t={answer.headers["Retry-After"]}'
