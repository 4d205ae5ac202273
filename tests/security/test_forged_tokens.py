"""A forged token names nobody, at the purchase's lane and at the ordinary routes: two verifiers must not differ.

What each of them does with a token is in `tests/security/test_auth.py`; here it is sent.
"""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import Shop


def _segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _claims(settings: Settings, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    names = {"iss": settings.token_issuer, "aud": settings.token_audience}
    return {"sub": "admin", "role": "admin", "iat": now, "exp": now + 600, **names, **changes}


def _signed(key: bytes, header: dict[str, Any], claims: dict[str, Any], digest_of: Any = hashlib.sha256) -> str:
    body = f"{_segment(header)}.{_segment(claims)}"
    digest = hmac.digest(key, body.encode(), digest_of)
    return f"{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def forgeries(settings: Settings) -> dict[str, str]:
    """Tokens of an admin that this shop did not sign, or not for this shop, or not for now."""
    own = {"alg": "HS256", "typ": "JWT"}
    good, secret = _claims(settings), settings.secret
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    embedded = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode()}
    return {
        "no algorithm": f"{_segment({**own, 'alg': 'none'})}.{_segment(good)}.",
        "no algorithm, signed": _signed(secret, {**own, "alg": "none"}, good),
        "another algorithm": _signed(secret, {**own, "alg": "HS512"}, good, hashlib.sha512),
        "a public key as the secret": _signed(public, own, good),
        "the forger's private key": jwt.encode(good, private, algorithm="RS256"),
        "another key": _signed(b"x" * 32, own, good),
        "an empty key": _signed(b"", own, good),
        "a key id that is a path": _signed(b"", {**own, "kid": "../../../../dev/null"}, good),
        "a key id that is a query": _signed(b"x", {**own, "kid": "x' UNION SELECT 'x"}, good),
        "a key in the header": _signed(b"k" * 32, {**own, "jwk": embedded}, good),
        "a key at a URL": _signed(b"k" * 32, {**own, "jku": "http://127.0.0.1:1/keys"}, good),
        "an extension that must be understood": _signed(secret, {**own, "crit": ["b64"], "b64": False}, good),
        "another issuer": _signed(secret, own, {**good, "iss": "https://evil.example"}),
        "another audience": _signed(secret, own, {**good, "aud": "another-shop"}),
        "no issuer": _signed(secret, own, {name: value for name, value in good.items() if name != "iss"}),
        "run out": _signed(secret, own, {**good, "exp": int(time.time()) - 1}),
        "for ever": _signed(secret, own, {name: value for name, value in good.items() if name != "exp"}),
        "not before tomorrow": _signed(secret, own, {**good, "nbf": int(time.time()) + 86_400}),
        "cut short": _signed(secret, own, good)[:-4],
        "without its signature": _signed(secret, own, good).rpartition(".")[0] + ".",
        "other claims under the signature": _mixed(settings),
    }


def _mixed(settings: Settings) -> str:
    own = {"alg": "HS256", "typ": "JWT"}
    shopper = _signed(settings.secret, own, _claims(settings, sub="ann", role="shopper"))
    header, _, signature = shopper.split(".")
    return f"{header}.{_segment(_claims(settings))}.{signature}"


NAMES = list(forgeries(Settings(_env_file=None, environment="development")))


@pytest.mark.parametrize("name", NAMES)
async def test_a_forged_token_is_refused_at_every_door(shop: Shop, name: str) -> None:
    client = await shop.client()
    headers = {"Authorization": f"Bearer {forgeries(shop.settings)[name]}"}

    problem_of(await client.post("/v1/seckill/sales/1/orders", headers=headers, json={}), 401, "unauthorized")
    problem_of(await client.get("/v1/me", headers=headers), 401, "unauthorized")
    problem_of(await client.post("/v1/admin/sales/1/pause", headers=headers), 401, "unauthorized")


async def test_a_good_token_counts_nowhere_but_in_its_header(shop: Shop) -> None:
    """Not in the URL, where logs and histories keep it, and not in a cookie, which other pages make browsers send."""
    client = await shop.client()
    token = shop.token("ann")

    for path in ("/v1/orders", "/v1/me"):
        problem_of(await client.get(path, params={"access_token": token, "token": token}), 401, "unauthorized")
        cookie = {"Cookie": f"access_token={token}; Authorization=Bearer {token}"}
        problem_of(await client.get(path, headers=cookie), 401, "unauthorized")
        problem_of(await client.get(path, headers={"Authorization": f"Basic {token}"}), 401, "unauthorized")
    purchase = await client.post(f"/v1/seckill/sales/1/orders?access_token={token}", json={})
    problem_of(purchase, 401, "unauthorized")
